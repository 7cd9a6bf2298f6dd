"""Gradients summed over replicas, as frameworks send them: a few buffers, not tensor by tensor.

A program for the partitioner sums every leaf of the gradients by itself, when its loop has ended.
Frameworks lay gradients side by side and send buckets of them: Megatron-LM and DeepSpeed from one
contiguous buffer, nanotron from PyTorch's buckets (`get_fp32_accum_hook` in its
`optim/gradient_accumulator.py`). How many leaves there are is then all the same, and latencies go
by bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from autoshard.cost.collectives import collective_time_s
from autoshard.machine.model import Chip, LogicalMesh, Overlap
from autoshard.plan.model import Collective
from benchmarks.published.training import Recipe

# Latencies between nodes are what lines through times of collectives of this size leave (the
# catalogue's sources, HF ultra-scale playbook): to send more takes as many.
_LATENCY_BYTES = 256e6


# What flattening and copying back read and write, in sizes of what is sent: scattered gradients are
# flattened; gathered parameters are, too, and copied back (nanotron's `distributed.py`,
# `reduce_scatter_coalesced` and `all_gather_coalesced`).
_COPIES = {"reduce-scatter": 2, "all-gather": 4}


@dataclass(frozen=True)
class Sums:
    """What a step waits for, once its backward is done.

    Attributes:
        leaf_by_leaf_s: as the program has it.
        buffered_s: as a framework sends it.
        copies_s: of what is sent into buffers and out of them.
    """

    leaf_by_leaf_s: float = 0.0
    buffered_s: float = 0.0
    copies_s: float = 0.0

    @property
    def saved_s(self) -> float:
        """By buffers; negative where leaves are few or copied."""
        return self.leaf_by_leaf_s - self.buffered_s - self.copies_s


def sums_of(
    collectives: Sequence[Collective], mesh: LogicalMesh, chip: Chip, recipe: Recipe
) -> Sums:
    """Of gradients, and of the parameters gathered again where each replica updates its part.

    Args:
        collectives: of the program.
        mesh: that they run on.
        chip: that copies.
        recipe: nothing is sent in buffers where gradients are reduced in every microbatch.
    """
    if recipe.replicas == 1:
        return Sums()
    sent = [c for c in collectives if c.count == 1 and c.axes == ("data",)]
    axis = next(axis for axis in mesh.axes if axis.name == "data")
    size_bytes: dict[str, float] = defaultdict(float)
    for one in sent:
        size_bytes[one.kind] += one.bytes * _widened(one, recipe)
    buffered_s = sum(
        collective_time_s(kind, axis, size, max(1.0, size / _LATENCY_BYTES))
        for kind, size in size_bytes.items()
    )
    seconds = sum(c.seconds for c in sent)
    exposed_s = sum(c.exposed_s for c in sent)
    copied_bytes = sum(_COPIES.get(kind, 0) * size for kind, size in size_bytes.items())
    return Sums(
        leaf_by_leaf_s=exposed_s,
        buffered_s=buffered_s * exposed_s / seconds if seconds else 0.0,
        copies_s=copied_bytes / (chip.memory_bytes_per_s * chip.memory_efficiency),
    )


def _widened(sent: Collective, recipe: Recipe) -> float:
    """Bytes of a gradient as it is added up, over those of one as the program sends it.

    Pipelines add up microbatches in a wide dtype, and send the sum in that of the layers.
    """
    if sent.kind == "all-gather":  # parameters
        return 1.0
    have = jnp.dtype(sent.tensor.partition("[")[0]).itemsize
    return jnp.dtype(recipe.grad_dtype).itemsize / have


def hidden_s(sums: Sums, compute_s: float, recipe: Recipe, overlap: Overlap) -> float:
    """What the last microbatch's backward hides of them.

    Frameworks that overlap start with each layer's sum while the last microbatch is still in the
    layers before: behind two thirds of one microbatch's time, since backward is twice forward.
    """
    behind_s = overlap.share * compute_s / recipe.microbatches * 2 / 3
    return (1 - overlap.slowdown) * min(sums.buffered_s, behind_s)
