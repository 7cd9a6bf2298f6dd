"""Which branch a program takes how often, where that is known before it runs.

A loop whose body switches between kinds of layers by a table of constants takes each branch as
often as the table says. The table's entries are followed from the constant into loops, and into
code for one shard, where shards may have other entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from autoshard import _compat

# Tables larger than this are data.
_LARGEST = 1 << 16
_SHARD, _TRIP = ("shard", "trip")
_SAME = frozenset({"convert_element_type", "copy", "squeeze", "stop_gradient"})


@dataclass(frozen=True)
class Table:
    """Whole numbers that are known.

    Attributes:
        values: first one axis for each in `over`, then those of the value itself.
        over: "shard" where shards of a mesh axis have their own, "trip" for trips of a loop.
    """

    values: np.ndarray[Any, Any]
    over: tuple[str, ...] = ()

    def slices(self) -> Table:
        """What trips of a loop over it have."""
        return Table(self.values, (*self.over, _TRIP))

    def shards(self, n: int) -> Table:
        """What each of `n` shards of its first dimension has."""
        values = self.values.reshape(n, self.values.shape[0] // n, *self.values.shape[1:])
        return Table(values, (_SHARD,))

    def through(self, eqn: _compat.JaxprEqn) -> Table | None:
        """What an equation makes of it; None where that is not looked into."""
        name, made = eqn.primitive.name, eqn.outvars[0]
        lead = self.values.shape[: len(self.over)]
        if name in _SAME and jnp.issubdtype(_compat.dtype_of(made), jnp.integer):
            return Table(self.values.reshape(*lead, *_compat.shape_of(made)), self.over)
        if name == "clamp":
            low, _, high = eqn.invars
            if isinstance(low, _compat.Literal) and isinstance(high, _compat.Literal):
                return Table(np.clip(self.values, int(low.val), int(high.val)), self.over)
        return None

    def taken(self, branches: int) -> tuple[np.ndarray[Any, Any], int] | None:
        """How often each branch is taken: `[shards, branches]`, and in how many trips in all."""
        if self.values.ndim != len(self.over) or _TRIP not in self.over:
            return None
        shards = self.values.shape[0] if self.over[0] == _SHARD else 1
        rows = np.clip(self.values.reshape(shards, -1), 0, branches - 1)
        counts = np.stack([np.bincount(row, minlength=branches) for row in rows])
        return counts, rows.shape[1]


def table(value: Any) -> Table | None:
    """A constant, if it is a table of whole numbers."""
    shape, dtype, _ = _compat.abstract(value)
    if not jnp.issubdtype(dtype, jnp.integer) or not shape or prod(shape) > _LARGEST:
        return None
    return Table(np.asarray(value))


def slowest(counts: np.ndarray[Any, Any], flops: Sequence[float]) -> tuple[int, ...]:
    """How often each branch is taken on the shard that has most work.

    Args:
        counts: `[shards, branches]`.
        flops: of each branch.

    Returns:
        1 at least, so that none is laid out as if it took no time.
    """
    work = counts @ np.asarray(flops, dtype=float)
    row = counts[int(np.argmax(work))]
    return tuple(int(n) for n in np.maximum(row, 1))
