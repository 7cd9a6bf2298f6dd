"""The search problem as numbers: options with costs and bytes, joined by tables.

minimise    sum_i cost_i[x_i] + sum_ij cost_ij[x_i, x_j]
subject to  at every time t: sum of bytes alive at t <= limit

Bytes belong to options (a tensor stored in a layout) or to pairs (a temporary copy made by a
reshard). Nothing here knows tensors, meshes or JAX; a problem can come from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def gap(cost_s: float, bound_s: float) -> float:
    """How far an answer may be from the best: the part of its cost above a bound on all."""
    if cost_s == float("inf"):
        return float("inf")
    return max(cost_s - bound_s, 0.0) / max(cost_s, 1e-30)


@dataclass(frozen=True)
class Usage:
    """Bytes in use from time `start` to time `end`, both included, per option or pair."""

    start: int
    end: int
    size_bytes: Floats


@dataclass(frozen=True)
class Variable:
    """A decision: seconds and bytes per option."""

    cost_s: Floats
    usage: tuple[Usage, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Pair:
    """Seconds and bytes that depend on two decisions: tables `[options of a, options of b]`."""

    a: int
    b: int
    cost_s: Floats
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True)
class Problem:
    """See the module docstring.

    Attributes:
        variables, pairs: the terms.
        limit_bytes: the most that may be in use at any time.
        horizon: times run from 0 to horizon - 1.
        base_cost_s: spent whatever is decided.
        base_bytes: in use at each time, whatever is decided; None stands for nothing.
    """

    variables: tuple[Variable, ...]
    pairs: tuple[Pair, ...]
    limit_bytes: float
    horizon: int
    base_cost_s: float = 0.0
    base_bytes: Floats | None = None

    @property
    def hair_bytes(self) -> float:
        """Overflow that is put down to rounding in sums of many terms: less than one byte."""
        return min(1e-12 * self.limit_bytes, 0.5)

    @cached_property
    def near(self) -> tuple[tuple[tuple[int, int, bool], ...], ...]:
        """Per variable: (pair, the variable at its other end, whether this one comes first)."""
        found: list[list[tuple[int, int, bool]]] = [[] for _ in self.variables]
        for k, p in enumerate(self.pairs):
            found[p.a].append((k, p.b, True))
            found[p.b].append((k, p.a, False))
        return tuple(map(tuple, found))

    def cost_s(self, choice: Sequence[int]) -> float:
        """The objective at one option per variable."""
        total = self.base_cost_s
        total += sum(float(v.cost_s[x]) for v, x in zip(self.variables, choice, strict=True))
        total += sum(float(p.cost_s[choice[p.a], choice[p.b]]) for p in self.pairs)
        return total

    def usage_bytes(self, choice: Sequence[int]) -> Floats:
        """Bytes in use at each time."""
        delta = np.zeros(self.horizon + 1)
        for v, x in zip(self.variables, choice, strict=True):
            for u in v.usage:
                size = float(u.size_bytes[x])
                delta[u.start] += size
                delta[u.end + 1] -= size
        for p in self.pairs:
            for u in p.usage:
                size = float(u.size_bytes[choice[p.a], choice[p.b]])
                delta[u.start] += size
                delta[u.end + 1] -= size
        return self._based(np.cumsum(delta[:-1]))

    def _based(self, used_bytes: Floats) -> Floats:
        return used_bytes if self.base_bytes is None else used_bytes + self.base_bytes

    def peak_bytes(self, choice: Sequence[int]) -> float:
        return float(self.usage_bytes(choice).max(initial=0.0))

    def unavoidable_bytes(self) -> float:
        """A peak that no answer stays below: every decision at its smallest at every time."""
        delta = np.zeros(self.horizon + 1)
        terms: tuple[Variable | Pair, ...] = (*self.variables, *self.pairs)
        for term in terms:
            for u in term.usage:
                size = float(u.size_bytes.min())
                delta[u.start] += size
                delta[u.end + 1] -= size
        return float(self._based(np.cumsum(delta[:-1])).max(initial=0.0))

    def with_limit(self, limit_bytes: float) -> Problem:
        return replace(self, limit_bytes=limit_bytes)
