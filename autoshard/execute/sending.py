"""Collectives that code for one shard writes, where the plan splits what they send as well.

XLA's partitioner passes sums and permutes through dimensions that it splits itself; for what deals
a dimension out, or puts it together, it makes the value whole first, and every device sends all of
it. Under a `shard_map` over the axes of the split, too, each sends its own part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jax.sharding import PartitionSpec

from autoshard import _compat

_WHOLE_TO_XLA = frozenset({"all_gather", "all_to_all", "reduce_scatter"})


def sends_whole(eqn: _compat.JaxprEqn) -> bool:
    """Whether XLA would send whole what an equation in code for one shard is to send."""
    # Tiled: the dimensions of operand and result are the same ones, and split alike.
    return eqn.primitive.name in _WHOLE_TO_XLA and bool(eqn.params["tiled"])


def sent_in_parts(
    eqn: _compat.JaxprEqn, values: Sequence[Any], spec: PartitionSpec, left: Collection[str]
) -> list[Any]:
    """The collective on every device's part.

    Args:
        eqn: such that `sends_whole`.
        values: its operand.
        spec: of its result, over
        left: axes of the mesh that are not the author's. All of them: XLA for CPUs dies of a sum
            of bfloat16 where any is left open ("Invalid binary instruction opcode copy").
    """

    def send(*parts: Any) -> list[Any]:
        return _compat.bind(eqn, list(parts), eqn.params)

    around = _compat.shard_map(
        send, None, in_specs=(spec,) * len(values), out_specs=[spec], manual=left
    )
    return list(around(*values))
