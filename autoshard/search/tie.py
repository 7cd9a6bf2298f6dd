"""Decisions laid out alike, taken as one.

The tied problem has one variable for each group of alike decisions: costs and bytes of its members
added up, tables between members of the same two groups added up, tables within a group read on
their diagonal. Its answers are those answers of the whole problem in which every group agrees, at
the same cost and with the same bytes at every time, so its bound holds for those only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.problem import Floats, Pair, Problem, Usage, Variable
from autoshard.search.reduce import Keep


@dataclass(frozen=True)
class Tied:
    """A problem with groups of variables made one.

    Attributes:
        problem: the smaller problem.
        place: per variable of the whole problem, its variable in the smaller one.
        first: per variable of the smaller problem, the first it stands for.
    """

    problem: Problem
    place: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def saved(self) -> int:
        """How many variables stand for themselves no more."""
        return len(self.place) - len(self.first)

    def lift(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The answer of the whole problem."""
        return tuple(choice[k] for k in self.place)

    def lower(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The answer in which every group does as its first member does."""
        return tuple(choice[i] for i in self.first)

    def keep(self, keep: Keep) -> Keep:
        """The options that every member of a group may take; the first member's if none is left."""
        common: list[set[int]] = [set(keep[i]) for i in self.first]
        for i, k in enumerate(self.place):
            if keep[i] is not keep[self.first[k]]:
                common[k] &= set(keep[i])
        return [sorted(found) or keep[i] for found, i in zip(common, self.first, strict=True)]


def tie(problem: Problem, groups: Iterable[Sequence[int]]) -> Tied:
    """Make each group of variables one.

    Args:
        problem: the numbers.
        groups: of variables with the same options, disjoint. Variables that differ in their number
            of options are left apart.
    """
    place, first = leaders([len(v.cost_s) for v in problem.variables], groups)
    cost = [np.zeros(len(problem.variables[i].cost_s)) for i in first]
    usage: list[dict[tuple[int, int], Floats]] = [{} for _ in first]
    for i, v in enumerate(problem.variables):
        cost[place[i]] += v.cost_s
        _gather(usage[place[i]], v.usage)
    tables: dict[tuple[int, int], Floats] = {}
    used: dict[tuple[int, int], dict[tuple[int, int], Floats]] = {}
    for p in problem.pairs:
        a, b = place[p.a], place[p.b]
        if a == b:
            cost[a] += np.diagonal(p.cost_s)
            _gather(usage[a], [_mapped(u, np.diagonal(u.size_bytes)) for u in p.usage])
            continue
        turned = a > b
        key = (b, a) if turned else (a, b)
        table = p.cost_s.T if turned else p.cost_s
        tables[key] = tables[key] + table if key in tables else table
        parts = [_mapped(u, u.size_bytes.T) if turned else u for u in p.usage]
        _gather(used.setdefault(key, {}), parts)
    return Tied(
        Problem(
            variables=tuple(
                Variable(cost[k], _usages(usage[k]), problem.variables[i].label)
                for k, i in enumerate(first)
            ),
            pairs=tuple(Pair(a, b, table, _usages(used[a, b])) for (a, b), table in tables.items()),
            limit_bytes=problem.limit_bytes,
            horizon=problem.horizon,
            base_cost_s=problem.base_cost_s,
        ),
        place,
        first,
    )


def leaders(
    counts: Sequence[int], groups: Iterable[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which variables stand for which.

    Args:
        counts: options per variable.
        groups: as in `tie`.

    Returns:
        `Tied.place` and `Tied.first`.
    """
    leader = list(range(len(counts)))
    for group in groups:
        for i in group[1:]:
            if counts[i] == counts[group[0]]:
                leader[i] = group[0]
    first = tuple(sorted(set(leader)))
    index = {i: k for k, i in enumerate(first)}
    return tuple(index[i] for i in leader), first


def _mapped(u: Usage, size_bytes: Floats) -> Usage:
    return Usage(u.start, u.end, size_bytes)


def _gather(into: dict[tuple[int, int], Floats], usage: Iterable[Usage]) -> None:
    for u in usage:
        key = (u.start, u.end)
        into[key] = into[key] + u.size_bytes if key in into else u.size_bytes


def _usages(found: dict[tuple[int, int], Floats]) -> tuple[Usage, ...]:
    return tuple(Usage(start, end, size) for (start, end), size in found.items())
