"""The published layouts as meshes and strategies of ours."""

from __future__ import annotations

from autoshard.search.strategy import Strategy
from autoshard.strategies import STRATEGIES
from benchmarks.published.rows import Layout


def mesh_sizes(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Axes, major to minor: data across nodes, tensor inside."""
    return (("data", layout.data * layout.fsdp), ("tensor", layout.tensor))


def strategy_for(layout: Layout) -> Strategy:
    """The expert layout that a published one is."""
    sharded = layout.fsdp > 1 or layout.zero == 3
    if sharded:
        return STRATEGIES["fsdp_tensor" if layout.tensor > 1 else "zero3"]
    return STRATEGIES["megatron" if layout.tensor > 1 else "data_parallel"]
