"""Where a program's equations repeat themselves, which is where unrolled layers may be.

Equations are numbered by what they are: primitive, parameters, types of operands and results. A
stretch of that sequence that equals itself some equations further on repeats with that period.
Whether the data flows alike is not asked here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from autoshard import _compat
from autoshard.trace.alike import comparable

# Layers that multiply nothing are no layers: updates of many parameters repeat themselves too.
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
# What takes every layer's own part of something, and differs from layer to layer in parameters.
SLICES = frozenset({"slice"})
# Distances between equal equations, and between equal rows of equations, that are tried as periods:
# so many of each, the most frequent first. Periods of few equations have few rows.
_TRIED = 32
_ROWS = (1, 8)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of the hash of a row; odd, its bits well mixed
# Ways to cut one stretch into trips that are tried.
_CUTS = 4


@dataclass(frozen=True, order=True)
class Run:
    """Equations that repeat themselves.

    Attributes:
        start: index of the first.
        period: how many make one trip.
        count: trips.
    """

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """The index behind the last."""
        return self.start + self.period * self.count

    def overlaps(self, other: Run) -> bool:
        """Whether they share equations."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class Stretch:
    """Equations that equal those one period further on.

    Attributes:
        run: as many trips as fit in, from the first equation on.
        slack: by how many equations trips may be cut later.
    """

    run: Run
    slack: int

    def cuts(self, eqns: Sequence[_compat.JaxprEqn]) -> Iterator[Run]:
        """Ways to cut it into trips: those first that pass least on from one trip to the next.

        For each come as many trips as fit in, then those without the first or the last, which may
        read something else.
        """
        passed = self._passed(eqns)
        best = sorted(range(self.slack + 1), key=lambda k: (*passed[k + self.run.period], k))
        for trips in range(self.run.count, max(1, self.run.count - 3), -1):
            for k in best[:_CUTS]:
                for left in range(self.run.count - trips + 1):
                    start = self.run.start + k + left * self.run.period
                    yield Run(start, self.run.period, trips)

    def _passed(self, eqns: Sequence[_compat.JaxprEqn]) -> list[tuple[int, int]]:
        """In front of each equation, how many values are read behind it, and their elements."""
        start = self.run.start
        size = self.run.end + self.slack - start
        made: dict[Any, int] = {}
        last: dict[Any, int] = {}
        for i in range(size):
            eqn = eqns[start + i]
            last.update((v, i) for v in eqn.invars if not is_literal(v) and v in made)
            made.update((v, i) for v in eqn.outvars)
        change = np.zeros((size + 1, 2), dtype=np.int64)
        for v, i in last.items():
            step = 1, int(np.prod(_compat.shape_of(v), dtype=np.int64))
            change[made[v] + 1] += step
            change[i + 1] -= step
        return [(int(n), int(m)) for n, m in np.cumsum(change, axis=0)]


def stretches(eqns: Sequence[_compat.JaxprEqn]) -> list[Stretch]:
    """Where equations repeat themselves and multiply something, the longest first.

    Args:
        eqns: of a program, inlined.
    """
    weight = _summed(sum(1 for _ in _inside(eqn)) for eqn in eqns)
    products = _summed(map(multiplies, eqns))
    numbers = numbered(eqns)
    found = [s for period in _periods(numbers) for s in _with_period(numbers, period)]
    found = [s for s in found if products[s.run.end] > products[s.run.start]]
    found.sort(key=lambda s: (weight[s.run.start] - weight[s.run.end], s.run.period))
    return found


def numbered(eqns: Sequence[_compat.JaxprEqn]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A number for each equation; equal ones have equal numbers."""
    fresh, table = count(), dict[Hashable, int]()
    numbers = []
    for eqn in eqns:
        types = tuple(v.aval for v in (*eqn.invars, *eqn.outvars))
        key = (eqn.primitive, types, None if eqn.primitive.name in SLICES else params_of(eqn))
        own = next(fresh)
        numbers.append(own if eqn.effects else table.setdefault(key, own))
    return np.array(numbers, dtype=np.int64)


def params_of(eqn: _compat.JaxprEqn) -> Hashable:
    """The parameters of an equation as something that is equal to its like."""
    return tuple((name, comparable(eqn.params[name])) for name in sorted(eqn.params))


def multiplies(eqn: _compat.JaxprEqn) -> bool:
    """Whether an equation is a product, or has one inside."""
    return any(inner.primitive.name in _PRODUCTS for inner in _inside(eqn))


def _inside(eqn: _compat.JaxprEqn) -> Iterator[_compat.JaxprEqn]:
    """An equation, with those of the bodies inside it."""
    yield eqn
    for body in _compat.bodies_of(eqn).values():
        yield from _compat.all_equations(_compat.open_body(body)[0])


def is_literal(value: Any) -> bool:
    """Whether an operand is a constant that stands in the equation itself."""
    return isinstance(value, _compat.Literal)


def _summed(values: Iterable[int]) -> list[int]:
    """Sums of all that stand in front of each place."""
    return [0, *np.cumsum([*values]).tolist()]


def _periods(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """Distances at which equations, and rows of them, repeat themselves most often."""
    found: dict[int, None] = {}
    for length in _ROWS:
        rows = max(0, len(numbers) - length + 1)
        hashes = np.zeros(rows, dtype=np.uint64)
        for k in range(length):  # wraps around
            hashes = hashes * _FACTOR + numbers[k : k + rows].astype(np.uint64)
        order = np.argsort(hashes, kind="stable")
        apart = np.diff(order)[np.diff(hashes[order]) == 0]
        distances, often = np.unique(apart, return_counts=True)
        best = np.argsort(-often, kind="stable")[:_TRIED]
        found.update(dict.fromkeys(distances[best].tolist()))
    return [*found]


def _with_period(numbers: np.ndarray[Any, np.dtype[np.int64]], period: int) -> Iterator[Stretch]:
    """The stretches that equal themselves a period further on, of two trips or more."""
    same = np.concatenate([[False], numbers[period:] == numbers[:-period], [False]])
    (edges,) = np.nonzero(same[1:] != same[:-1])
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        trips, slack = divmod(end - start, period)
        if trips:
            yield Stretch(Run(start, period, trips + 1), slack)
