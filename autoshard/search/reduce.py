"""Exact reductions: a smaller problem with the same optimum, and the way back.

* Options that another option of the same variable beats whatever the neighbours do are dropped
  (dead-end elimination with memory: the better option must also use no more bytes at any time).
* Variables left with one option are folded into their neighbours.
* Variables without bytes that touch at most two others are solved out: their best response to
  every pair of neighbour options becomes a table between the neighbours.

Each step is undone in reverse to lift an answer back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.problem import Floats, Pair, Problem, Usage, Variable

Keep = list[list[int]]


@dataclass(frozen=True)
class _Solved:
    """A variable solved out: its best option per option of its neighbours (original indices)."""

    variable: int
    neighbours: tuple[int, ...]
    best: np.ndarray


@dataclass(frozen=True)
class Reduced:
    """A reduced problem.

    Attributes:
        problem: the smaller problem.
        variables: original index of each of its variables.
        options: original option of each option of its variables.
    """

    problem: Problem
    variables: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    _fixed: tuple[tuple[int, int], ...]
    _solved: tuple[_Solved, ...]
    _n: int

    def lift(self, choice: Sequence[int]) -> tuple[int, ...]:
        """An answer of the original problem with the same cost."""
        full = [-1] * self._n
        for i, s in self._fixed:
            full[i] = s
        for k, i in enumerate(self.variables):
            full[i] = self.options[k][choice[k]]
        for step in reversed(self._solved):
            full[step.variable] = int(step.best[tuple(full[j] for j in step.neighbours)])
        return tuple(full)

    def lower(self, choice: Sequence[int]) -> tuple[int, ...] | None:
        """The answer of the reduced problem that `choice` stands for; None if it was dropped."""
        out: list[int] = []
        for k, i in enumerate(self.variables):
            if choice[i] not in self.options[k]:
                return None
            out.append(self.options[k].index(choice[i]))
        # The variable that carries fixed usage, if there is one, has a single option.
        return (*out, *[0] * (len(self.problem.variables) - len(out)))


def everything(problem: Problem) -> Keep:
    """Every option of every variable."""
    return [list(range(len(v.cost_s))) for v in problem.variables]


def reduce(problem: Problem, keep: Keep | None = None) -> Reduced:
    """Apply all reductions, starting from the options in `keep`."""
    return _Reducer(problem, keep or everything(problem)).run()


class _Reducer:
    def __init__(self, problem: Problem, keep: Keep) -> None:
        self.original = problem
        self.n = len(problem.variables)
        self.options = [np.array(k, dtype=np.int64) for k in keep]
        self.cost = [
            v.cost_s[o].astype(float) for v, o in zip(problem.variables, self.options, strict=True)
        ]
        self.usage: list[list[Usage]] = [
            [Usage(u.start, u.end, u.size_bytes[o]) for u in v.usage]
            for v, o in zip(problem.variables, self.options, strict=True)
        ]
        self.tables: dict[tuple[int, int], Floats] = {}
        self.pair_usage: dict[tuple[int, int], list[Usage]] = {}
        self.near: list[set[int]] = [set() for _ in range(self.n)]
        for p in problem.pairs:
            index = np.ix_(self.options[p.a], self.options[p.b])
            self._add(p.a, p.b, p.cost_s[index].astype(float))
            for u in p.usage:
                self._add_usage(p.a, p.b, Usage(u.start, u.end, u.size_bytes[index]))
        self.base_usage: list[Usage] = []
        self.fixed: list[tuple[int, int]] = []
        self.solved: list[_Solved] = []
        self.base_cost = problem.base_cost_s

    def _add(self, a: int, b: int, table: Floats) -> None:
        if a > b:
            a, b, table = b, a, table.T
        if (a, b) in self.tables:
            self.tables[a, b] = self.tables[a, b] + table
        else:
            self.tables[a, b] = table
        self.near[a].add(b)
        self.near[b].add(a)

    def _add_usage(self, a: int, b: int, u: Usage) -> None:
        if not u.size_bytes.any():
            return
        if a > b:
            a, b, u = b, a, Usage(u.start, u.end, u.size_bytes.T)
        self.pair_usage.setdefault((a, b), []).append(u)

    def _table(self, i: int, j: int) -> Floats:
        """Table with `i` first."""
        return self.tables[i, j] if i < j else self.tables[j, i].T

    def _usages(self, i: int, j: int) -> list[Usage]:
        if i < j:
            return self.pair_usage.get((i, j), [])
        return [Usage(u.start, u.end, u.size_bytes.T) for u in self.pair_usage.get((j, i), [])]

    def run(self) -> Reduced:
        live = set(range(self.n))
        work = sorted(live)
        while work:
            touched: set[int] = set()
            for i in work:
                if i not in live:
                    continue
                if len(self.options[i]) > 1 and self._drop_dominated(i):
                    touched |= self.near[i]
                if len(self.options[i]) == 1:
                    touched |= self.near[i]
                    self._fold(i)
                    live.discard(i)
                elif self._can_solve_out(i):
                    touched |= self.near[i]
                    self._solve_out(i)
                    live.discard(i)
            work = sorted(touched & live)
        return self._result(sorted(live))

    def _drop_dominated(self, i: int) -> bool:
        n = len(self.options[i])
        worse = self.cost[i][:, None] - self.cost[i][None, :]  # [a, b]: a costs this much more
        for j in self.near[i]:
            table = self._table(i, j)
            worse = worse + (table[:, None, :] - table[None, :, :]).min(axis=2)
        # a is dropped for b when a never costs less and never uses less.
        dominated = worse >= 0
        for u in self.usage[i]:
            dominated &= u.size_bytes[:, None] >= u.size_bytes[None, :]
        for j in self.near[i]:
            for u in self._usages(i, j):
                size = u.size_bytes
                dominated &= (size[:, None, :] >= size[None, :, :]).all(axis=2)
        np.fill_diagonal(dominated, False)
        gone = np.zeros(n, dtype=bool)
        for a in range(n):
            # Of equals the first stays, so answers do not depend on chance.
            better = np.flatnonzero(dominated[a] & ~gone)
            if any(not dominated[b, a] or b < a for b in better):
                gone[a] = True
        if not gone.any():
            return False
        self._restrict(i, np.flatnonzero(~gone))
        return True

    def _restrict(self, i: int, stay: np.ndarray) -> None:
        self.options[i], self.cost[i] = self.options[i][stay], self.cost[i][stay]
        self.usage[i] = [Usage(u.start, u.end, u.size_bytes[stay]) for u in self.usage[i]]
        for j in self.near[i]:
            key = (i, j) if i < j else (j, i)
            axis = 0 if i < j else 1
            self.tables[key] = self.tables[key].take(stay, axis=axis)
            if key in self.pair_usage:
                self.pair_usage[key] = [
                    Usage(u.start, u.end, u.size_bytes.take(stay, axis=axis))
                    for u in self.pair_usage[key]
                ]

    def _detach(self, i: int, j: int) -> tuple[Floats, list[Usage]]:
        table, used = self._table(i, j), self._usages(i, j)
        key = (i, j) if i < j else (j, i)
        del self.tables[key]
        self.pair_usage.pop(key, None)
        self.near[i].discard(j)
        self.near[j].discard(i)
        return table, used

    def _fold(self, i: int) -> None:
        self.fixed.append((i, int(self.options[i][0])))
        self.base_cost += float(self.cost[i][0])
        self.base_usage += self.usage[i]
        for j in list(self.near[i]):
            table, used = self._detach(i, j)
            self.cost[j] = self.cost[j] + table[0]
            self.usage[j] += [Usage(u.start, u.end, u.size_bytes[0]) for u in used]

    def _can_solve_out(self, i: int) -> bool:
        if self.usage[i] or len(self.near[i]) > 2:
            return False
        return not any(self._usages(i, j) for j in self.near[i])

    def _solve_out(self, i: int) -> None:
        near = sorted(self.near[i])
        tables = [self._detach(i, j)[0] for j in near]
        if not near:
            best = np.array(self.options[i][int(np.argmin(self.cost[i]))])
            self.base_cost += float(self.cost[i].min())
            self.solved.append(_Solved(i, (), best))
            return
        if len(near) == 1:
            total = self.cost[i][:, None] + tables[0]
            self.cost[near[0]] = self.cost[near[0]] + total.min(axis=0)
            shape: tuple[int, ...] = (len(self.original.variables[near[0]].cost_s),)
            best = np.zeros(shape, dtype=np.int64)
            best[self.options[near[0]]] = self.options[i][total.argmin(axis=0)]
        else:
            total3 = self.cost[i][:, None, None] + tables[0][:, :, None] + tables[1][:, None, :]
            self._add(near[0], near[1], total3.min(axis=0))
            shape = tuple(len(self.original.variables[j].cost_s) for j in near)
            best = np.zeros(shape, dtype=np.int64)
            index = np.ix_(self.options[near[0]], self.options[near[1]])
            best[index] = self.options[i][total3.argmin(axis=0)]
        self.solved.append(_Solved(i, tuple(near), best))

    def _result(self, live: list[int]) -> Reduced:
        position = {i: k for k, i in enumerate(live)}
        variables = [
            Variable(self.cost[i], tuple(self.usage[i]), self.original.variables[i].label)
            for i in live
        ]
        fixed_usage = [u for u in self.base_usage if u.size_bytes.any()]
        if fixed_usage:
            # What no decision changes still takes room: carried by a variable of one option.
            position[-1] = len(variables)
            variables.append(Variable(np.zeros(1), _merged(fixed_usage), "fixed"))
        pairs = [
            Pair(position[a], position[b], t, tuple(self.pair_usage.get((a, b), ())))
            for (a, b), t in self.tables.items()
        ]
        options = [tuple(int(o) for o in self.options[i]) for i in live]
        original = list(live)
        problem = Problem(
            tuple(variables),
            tuple(pairs),
            self.original.limit_bytes,
            self.original.horizon,
            self.base_cost,
        )
        return Reduced(
            problem, tuple(original), tuple(options), tuple(self.fixed), tuple(self.solved), self.n
        )


def _merged(usage: list[Usage]) -> tuple[Usage, ...]:
    total: dict[tuple[int, int], float] = {}
    for u in usage:
        key = (u.start, u.end)
        total[key] = total.get(key, 0.0) + float(u.size_bytes[0])
    return tuple(Usage(a, b, np.array([size])) for (a, b), size in total.items())
