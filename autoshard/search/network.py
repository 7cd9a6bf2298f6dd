"""The search problem while it is being reduced: tables by pair, cut down only when looked at.

A variable's options shrink often, its tables are read seldom: every table remembers the options it
was made for and is cut to those that are left when it is next asked for. So dropping an option of
a variable with thousands of neighbours costs no more than dropping one with two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from autoshard.search.once import distinct, mapped
from autoshard.search.problem import Floats, Ints, Problem, Usage


@dataclass(frozen=True)
class Solved:
    """A variable that follows others: its option per option of these (all as first numbered)."""

    variable: int
    leaders: tuple[int, ...]
    option: Ints


@dataclass(slots=True)
class Edge:
    """What two variables cost and use together, for the options they had at some time."""

    a: int
    b: int
    table: Floats
    usage: list[Usage]
    options_a: Ints
    options_b: Ints


class Network:
    """Variables, tables and bytes, with the operations that reductions are made of.

    Attributes:
        options: per variable, the options left, as first numbered, ascending.
        cost: per variable, seconds per option left.
        near: per variable, its edges by the variable at the other end.
        live: variables not yet decided or made to follow others.
        base_cost_s: what every answer pays.
        solved: how to undo, latest last.
    """

    def __init__(self, problem: Problem, keep: Sequence[Sequence[int]] | None = None) -> None:
        self.problem = problem
        n = len(problem.variables)
        self.sizes = [len(v.cost_s) for v in problem.variables]
        everything = [np.arange(k) for k in range(max(self.sizes, default=0) + 1)]
        self.options: list[Ints] = [everything[k] for k in self.sizes]
        self.cost: list[Floats] = [v.cost_s.astype(float) for v in problem.variables]
        self._usage: list[list[Usage]] = [list(v.usage) for v in problem.variables]
        self._usage_options = list(self.options)
        self.near: list[dict[int, Edge]] = [{} for _ in range(n)]
        self.live = set(range(n))
        self.base_cost_s = problem.base_cost_s
        self.base_usage: list[tuple[int, int, float]] = []
        self.solved: list[Solved] = []
        for p in problem.pairs:
            self.add(p.a, p.b, p.cost_s, [u for u in p.usage if u.size_bytes.any()])
        for i, k in enumerate(keep or ()):
            if len(k) < self.sizes[i]:
                self.options[i] = np.array(sorted(k), dtype=np.int64)
                self.cost[i] = self.cost[i][self.options[i]]

    def add(self, a: int, b: int, table: Floats, usage: Iterable[Usage] = ()) -> None:
        """Add a table `[options of a, options of b]`, and bytes, between two variables."""
        edge = self.near[a].get(b)
        if edge is None:
            edge = Edge(a, b, table, list(usage), self.options[a], self.options[b])
            self.near[a][b] = self.near[b][a] = edge
            return
        self._cut(edge)
        turned = edge.a != a
        edge.table = edge.table + (table.T if turned else table)
        edge.usage += mapped(usage, _turned) if turned else usage

    def restrict(self, i: int, stay: Ints) -> None:
        """Keep the options at these positions."""
        self.options[i], self.cost[i] = self.options[i][stay], self.cost[i][stay]

    def table(self, i: int, j: int) -> Floats:
        """Seconds `[options of i, options of j]`; not to be written to."""
        edge = self.near[i][j]
        self._cut(edge)
        return edge.table if edge.a == i else edge.table.T

    def usage(self, i: int) -> list[Usage]:
        """Bytes per option of a variable."""
        mine = self.options[i]
        if self._usage_options[i] is not mine:
            stay = np.searchsorted(self._usage_options[i], mine)
            self._usage[i] = mapped(self._usage[i], lambda size: size[stay])
            self._usage_options[i] = mine
        return self._usage[i]

    def set_usage(self, i: int, usage: list[Usage]) -> None:
        self._usage[i], self._usage_options[i] = usage, self.options[i]

    def pair_usage(self, i: int, j: int) -> list[Usage]:
        """Bytes per pair of options, those of `i` first."""
        edge = self.near[i][j]
        if not edge.usage:
            return []
        self._cut(edge)
        return edge.usage if edge.a == i else mapped(edge.usage, _turned)

    def pair_sizes(self, i: int, j: int) -> list[Floats]:
        """The arrays that `pair_usage` has, each once."""
        edge = self.near[i][j]
        if not edge.usage:
            return []
        self._cut(edge)
        sizes = distinct(edge.usage)
        return sizes if edge.a == i else [size.T for size in sizes]

    def _cut(self, edge: Edge) -> None:
        options = self.options
        if edge.options_a is options[edge.a] and edge.options_b is options[edge.b]:
            return
        for axis, (had, has) in enumerate(
            ((edge.options_a, self.options[edge.a]), (edge.options_b, self.options[edge.b]))
        ):
            if had is not has:
                stay = np.searchsorted(had, has)
                edge.table = edge.table.take(stay, axis=axis)
                edge.usage = mapped(edge.usage, partial(_taken, stay=stay, axis=axis))
        edge.options_a, edge.options_b = self.options[edge.a], self.options[edge.b]

    def detach(self, i: int, j: int) -> tuple[Floats, list[Usage]]:
        """Take the edge between two variables away; its table and bytes, `i` first."""
        table, used = self.table(i, j), self.pair_usage(i, j)
        del self.near[i][j], self.near[j][i]
        return table, used

    def fold(self, i: int) -> None:
        """Decide a variable that has one option left."""
        self.base_cost_s += float(self.cost[i][0])
        self.base_usage += [(u.start, u.end, float(u.size_bytes[0])) for u in self.usage(i)]
        for j in list(self.near[i]):
            table, used = self.detach(i, j)
            self.cost[j] = self.cost[j] + table[0]
            own = self.usage(j)
            self.set_usage(j, own + mapped(used, lambda size: size[0]))
        self.solved.append(Solved(i, (), self.options[i][0]))
        self._gone(i)

    def merge(self, i: int, j: int, position: Ints) -> None:
        """Let `i` follow `j`: at each option of `j` it takes the option at `position`."""
        table, used = self.detach(i, j)
        every = np.arange(len(position))
        self.cost[j] = self.cost[j] + self.cost[i][position] + table[position, every]
        moved = mapped(self.usage(i), lambda size: size[position])
        moved += mapped(used, lambda size: size[position, every])
        if moved:
            self.usage(j).extend(moved)
        for k in list(self.near[i]):
            table, used = self.detach(i, k)
            self.add(j, k, table[position], mapped(used, lambda size: size[position]))
        option = np.zeros(self.sizes[j], dtype=np.int64)
        option[self.options[j]] = self.options[i][position]
        self.solved.append(Solved(i, (j,), option))
        self._gone(i)

    def solve_out(self, i: int) -> None:
        """Decide a variable of at most two neighbours, and no bytes, by its best response."""
        near = sorted(self.near[i])
        tables = [self.detach(i, j)[0] for j in near]
        shape = tuple(self.sizes[j] for j in near)
        option = np.zeros(shape, dtype=np.int64)
        if not near:
            option = np.asarray(self.options[i][int(np.argmin(self.cost[i]))])
            self.base_cost_s += float(self.cost[i].min())
        elif len(near) == 1:
            total = self.cost[i][:, None] + tables[0]
            self.cost[near[0]] = self.cost[near[0]] + total.min(axis=0)
            option[self.options[near[0]]] = self.options[i][total.argmin(axis=0)]
        else:
            least, best = _best_response(self.cost[i], *tables)
            self.add(near[0], near[1], least)
            option[np.ix_(self.options[near[0]], self.options[near[1]])] = self.options[i][best]
        self.solved.append(Solved(i, tuple(near), option))
        self._gone(i)

    def _gone(self, i: int) -> None:
        self.live.discard(i)
        self._usage[i] = []


def _best_response(cost: Floats, first: Floats, second: Floats) -> tuple[Floats, Ints]:
    """Least of `cost[s] + first[s, a] + second[s, b]` over s, and where, per (a, b)."""
    least = cost[0] + first[0][:, None] + second[0][None, :]
    best = np.zeros(least.shape, dtype=np.int64)
    for s in range(1, len(cost)):
        total = cost[s] + first[s][:, None] + second[s][None, :]
        better = total < least
        least[better], best[better] = total[better], s
    return least, best


def _turned(size: Floats) -> Floats:
    return size.T


def _taken(size: Floats, stay: Ints, axis: int) -> Floats:
    return size.take(stay, axis=axis)
