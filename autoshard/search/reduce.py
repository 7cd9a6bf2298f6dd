"""Exact reductions: a smaller problem with the same optimum, and the way back.

In turns until nothing changes:

* forbidden pairs are worked off, followers merged, sums split (`contract.py`);
* times at which memory cannot matter are left out (`moments.py`);
* options that another one beats whatever the neighbours do are dropped (`dominance.py`);
* variables left with one option are folded into their neighbours;
* variables without bytes that touch at most two others are solved out: their best response to
  every pair of neighbour options becomes a table between the neighbours.

Each step is undone in reverse to lift an answer back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.contract import contract
from autoshard.search.dominance import dominated
from autoshard.search.moments import moments
from autoshard.search.network import Network, Solved
from autoshard.search.once import Once
from autoshard.search.problem import Floats, Pair, Problem, Usage, Variable

Keep = list[list[int]]

# A variable is solved out if the table that takes its place has at most this many cells ...
_SMALL_TABLE = 4096
# ... or at most this many times the cells of the tables it replaces.
_GROWTH = 2.0


@dataclass(frozen=True)
class Reduced:
    """A reduced problem.

    Attributes:
        problem: the smaller problem.
        variables: original index of each of its variables.
        options: original option of each option of its variables.
        infeasible: some variable has no option that the others allow.
    """

    problem: Problem
    variables: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    _solved: tuple[Solved, ...]
    _n: int
    infeasible: bool = False

    def lift(self, choice: Sequence[int]) -> tuple[int, ...]:
        """An answer of the original problem with the same cost."""
        full = [-1] * self._n
        for k, i in enumerate(self.variables):
            full[i] = self.options[k][choice[k]]
        for step in reversed(self._solved):
            full[step.variable] = int(step.option[tuple(full[j] for j in step.leaders)])
        return tuple(full)

    def lower(self, choice: Sequence[int]) -> tuple[int, ...] | None:
        """The answer of the reduced problem that `choice` stands for; None if it was dropped."""
        out: list[int] = []
        for k, i in enumerate(self.variables):
            if choice[i] not in self.options[k]:
                return None
            out.append(self.options[k].index(choice[i]))
        return tuple(out)


def everything(problem: Problem) -> Keep:
    """Every option of every variable."""
    return [list(range(len(v.cost_s))) for v in problem.variables]


def reduce(problem: Problem, keep: Keep | None = None) -> Reduced:
    """Apply all reductions, starting from the options in `keep`."""
    return _Reducer(problem, keep).run()


def _added(
    parts: Iterable[tuple[tuple[int, int], Floats]],
) -> dict[tuple[int, int], Floats]:
    """Bytes by when they are in use; sums of the same arrays are one array."""
    found: dict[tuple[int, int], Floats] = {}
    sums: dict[tuple[int, int], tuple[Floats, Floats, Floats]] = {}
    for key, size in parts:
        have = found.get(key)
        if have is None:
            found[key] = size
            continue
        both = (id(have), id(size))
        if both not in sums:
            sums[both] = (have, size, have + size)  # all are kept: no id is used anew
        found[key] = sums[both][2]
    return found


class _Reducer:
    def __init__(self, problem: Problem, keep: Keep | None) -> None:
        self.problem = problem
        self.net = Network(problem, keep)
        self.horizon = problem.horizon
        zero = np.zeros(problem.horizon)
        self.base_bytes = zero if problem.base_bytes is None else problem.base_bytes

    def run(self) -> Reduced:
        net = self.net
        for i in sorted(net.live):
            possible = np.flatnonzero(np.isfinite(net.cost[i]))
            if len(possible) == 0:
                return self._impossible()
            if len(possible) < len(net.cost[i]):
                net.restrict(i, possible)
        work, edges = sorted(net.live), self._edges(net.live)
        timed = False
        while work:
            if not contract(net, edges):
                return self._impossible()
            if not timed:
                # Fewer times, fewer bytes to compare below.
                self._retime()
                timed = True
            work, changed = self._shrink([i for i in work if i in net.live])
            edges = self._edges(changed)
            work = sorted({j for i in changed if i in net.live for j in (i, *net.near[i])})
        self._retime()
        return self._result()

    def _edges(self, variables: set[int]) -> list[tuple[int, int]]:
        near = self.net.near
        return sorted({(min(i, j), max(i, j)) for i in variables for j in near[i]})

    def _shrink(self, work: list[int]) -> tuple[list[int], set[int]]:
        """Drop, fold and solve out; returns nothing left to do, and whose tables changed."""
        net = self.net
        changed: set[int] = set()
        while work:
            touched: set[int] = set()
            for i in work:
                if i not in net.live:
                    continue
                if len(net.options[i]) > 1 and self._drop_dominated(i):
                    touched.update(net.near[i])
                    changed.add(i)
                if len(net.options[i]) == 1:
                    touched.update(net.near[i])
                    net.fold(i)
                elif self._can_solve_out(i):
                    touched.update(net.near[i])
                    changed.update(net.near[i])
                    net.solve_out(i)
            work = sorted(touched & net.live)
        return work, changed & net.live

    def _drop_dominated(self, i: int) -> bool:
        net = self.net
        pair_bytes = [size for j in net.near[i] for size in net.pair_sizes(i, j)]
        tables = [net.table(i, j) for j in net.near[i]]
        gone = dominated(net.cost[i], tables, net.usage(i), pair_bytes)
        if not gone.any():
            return False
        net.restrict(i, np.flatnonzero(~gone))
        return True

    def _can_solve_out(self, i: int) -> bool:
        net = self.net
        near = list(net.near[i])
        if len(near) > 2 or any(u.size_bytes.any() for u in net.usage(i)):
            return False
        if any(net.near[i][j].usage for j in near):
            return False
        if len(near) < 2:
            return True
        a, b = (len(net.options[j]) for j in near)
        return a * b <= max(_SMALL_TABLE, _GROWTH * (a + b) * len(net.options[i]))

    def _retime(self) -> None:
        """Leave out the times that do not matter, and from each usage what every option takes."""
        net = self.net
        gathered: dict[int, dict[tuple[int, int], Floats]] = {}
        base = [(start, end, size) for start, end, size in net.base_usage]
        net.base_usage = []
        lives: list[tuple[int, int, float]] = []
        for i in net.live:
            if not (parts := _added(((u.start, u.end), u.size_bytes) for u in net.usage(i))):
                continue
            extent = Once(lambda size: (float(size.min()), float(size.max())))
            above = Once(lambda size: size - size.min())
            for key, size in list(parts.items()):
                least, most = extent(size)
                if least:
                    base.append((*key, least))
                    parts[key] = above(size)
                if most > least:
                    lives.append((*key, most - least))
                else:
                    del parts[key]
            gathered[i] = parts
        pairs = [net.near[i][j] for i in net.live for j in net.near[i] if i == net.near[i][j].a]
        pairs = [e for e in pairs if e.usage]
        for e in pairs:
            net.table(e.a, e.b)
            largest = Once(lambda size: float(size.max()))
            lives += [(u.start, u.end, largest(u.size_bytes)) for u in e.usage]
        self._add_base(base)
        start = np.array([t[0] for t in lives], dtype=np.int64)
        end = np.array([t[1] for t in lives], dtype=np.int64)
        most_bytes = np.array([t[2] for t in lives])
        kept = moments(start, end, most_bytes, self.base_bytes, self.problem.limit_bytes)
        place = np.searchsorted(kept, np.arange(self.horizon + 1)).tolist()
        for i, parts in gathered.items():
            moved = (((place[s], place[e + 1] - 1), size) for (s, e), size in parts.items())
            late = _added((key, size) for key, size in moved if key[0] <= key[1])
            net.set_usage(i, [Usage(*key, size) for key, size in late.items()])
        for e in pairs:
            parts = _added(((place[u.start], place[u.end + 1] - 1), u.size_bytes) for u in e.usage)
            e.usage = [Usage(*key, size) for key, size in parts.items() if key[0] <= key[1]]
        self.base_bytes = self.base_bytes[kept]
        self.horizon = len(kept)

    def _add_base(self, usage: list[tuple[int, int, float]]) -> None:
        if not usage:
            return
        delta = np.zeros(self.horizon + 1)
        np.add.at(delta, [u[0] for u in usage], [u[2] for u in usage])
        np.subtract.at(delta, [u[1] + 1 for u in usage], [u[2] for u in usage])
        self.base_bytes = self.base_bytes + delta.cumsum()[:-1]

    def _impossible(self) -> Reduced:
        return Reduced(self.problem, (), (), (), len(self.problem.variables), infeasible=True)

    def _result(self) -> Reduced:
        net = self.net
        live = sorted(net.live)
        position = {i: k for k, i in enumerate(live)}
        variables = [
            Variable(net.cost[i], tuple(net.usage(i)), self.problem.variables[i].label)
            for i in live
        ]
        pairs = [
            Pair(position[i], position[j], net.table(i, j), tuple(net.pair_usage(i, j)))
            for i in live
            for j in net.near[i]
            if i < j
        ]
        problem = Problem(
            tuple(variables),
            tuple(pairs),
            self.problem.limit_bytes,
            self.horizon,
            net.base_cost_s,
            self.base_bytes,
        )
        options = tuple(tuple(int(o) for o in net.options[i]) for i in live)
        return Reduced(
            problem, tuple(live), options, tuple(net.solved), len(self.problem.variables)
        )
