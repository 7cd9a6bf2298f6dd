"""Collectives that code for one shard writes, where the plan splits what they send as well.

XLA's partitioner passes sums and permutes through dimensions that it splits itself; for what deals
a dimension out, or puts it together, it makes the value whole first, and every device sends all of
it. Under a `shard_map` over the axes of the split, too, each sends its own part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.sharding import PartitionSpec

from autoshard import _compat

_WHOLE_TO_XLA = frozenset({"all_gather", "all_to_all", "reduce_scatter"})


def sends_whole(eqn: _compat.JaxprEqn, spec: PartitionSpec) -> bool:
    """Whether XLA would send whole what a plan splits.

    Args:
        eqn: in code for one shard, some of whose mesh's axes are the plan's.
        spec: of its result, over these axes.
    """
    return (
        eqn.primitive.name in _WHOLE_TO_XLA
        and bool(eqn.params["tiled"])  # dimensions of operand and result are the same ones
        and any(dim is not None for dim in spec)
    )


def sent_in_parts(
    eqn: _compat.JaxprEqn, values: Sequence[Any], spec: PartitionSpec
) -> Sequence[Any]:
    """The collective on every device's part."""
    axes = {a for dim in spec for a in ((dim,) if isinstance(dim, str) else dim or ())}

    def send(*parts: Any) -> list[Any]:
        return _compat.bind(eqn, list(parts), eqn.params)

    around = _compat.shard_map(
        send, None, in_specs=(spec,) * len(values), out_specs=[spec], manual=axes
    )
    return list(around(*values))
