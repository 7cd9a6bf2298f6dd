"""From one layout of a tensor to another: which collectives, over which axes, on how many bytes.

A layout is given per mesh axis: the dimension it splits, `WHOLE` if it splits none, or `PARTIAL`
if every device along it holds a term of a sum still to be made. The order is the one that moves
least: slices first (free, and everything after is smaller), then reductions, exchanges, gathers.

Everything is vectorised over pairs of layouts, since the search wants whole tables at once; one
pair is a 1 x 1 table. Collective sizes follow the convention of `collective_time_s`: bytes on one
device of the larger side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.cost.collectives import collective_time_s
from autoshard.machine.model import MeshAxis

WHOLE = -1
PARTIAL = -2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """One collective of a reshard, for the pairs of layouts where `mask` holds."""

    kind: str
    axis: int
    mask: Bools
    size_bytes: Floats


def local_bytes(state: Ints, full_bytes: float, axes: Sequence[MeshAxis]) -> Floats:
    """Bytes one device holds, per layout. Args: state `[n, axes]`."""
    sizes = np.array([axis.size for axis in axes], dtype=np.float64)
    shards: Floats = np.where(state >= 0, sizes, 1.0).prod(axis=1)
    return full_bytes / shards


def steps(src: Ints, dst: Ints, full_bytes: float, axes: Sequence[MeshAxis]) -> Iterator[Step]:
    """The collectives between every layout of `src` `[s, axes]` and of `dst` `[d, axes]`."""
    s, d = src[:, None, :], dst[None, :, :]
    local = np.broadcast_to(
        local_bytes(src, full_bytes, axes)[:, None], (len(src), len(dst))
    ).copy()
    every = range(len(axes))
    live = [a for a in every if axes[a].size > 1]
    for a in live:
        local[(s[:, :, a] == WHOLE) & (d[:, :, a] >= 0)] /= axes[a].size
    for a in live:
        mask = (s[:, :, a] == PARTIAL) & (d[:, :, a] >= 0)
        if mask.any():
            yield Step("reduce-scatter", a, mask, local.copy())
            local[mask] /= axes[a].size
    for a in live:
        mask = (s[:, :, a] == PARTIAL) & (d[:, :, a] == WHOLE)
        if mask.any():
            yield Step("all-reduce", a, mask, local.copy())
    for a in live:
        mask = (s[:, :, a] >= 0) & (d[:, :, a] >= 0) & (s[:, :, a] != d[:, :, a])
        if mask.any():
            yield Step("all-to-all", a, mask, local.copy())
    # Two axes on one dimension are laid major to minor. Changing the major one while the minor
    # stays put leaves the pieces in another order: they are passed around once.
    for major in live:
        for minor in live:
            if minor <= major:
                continue
            stays = (s[:, :, minor] >= 0) & (s[:, :, minor] == d[:, :, minor])
            was = s[:, :, major] == s[:, :, minor]
            will = d[:, :, major] == d[:, :, minor]
            mask = stays & (was != will)
            if mask.any():
                yield Step("permute", minor, mask, local.copy())
    for a in live:
        mask = (s[:, :, a] >= 0) & (d[:, :, a] == WHOLE)
        if mask.any():
            local[mask] *= axes[a].size
            yield Step("all-gather", a, mask, local.copy())


def reshard_table(
    src: Ints, dst: Ints, full_bytes: float, axes: Sequence[MeshAxis]
) -> tuple[Floats, Floats]:
    """Seconds and bytes of temporary copies for every pair of layouts.

    Args:
        src: layouts of the source, `[s, axes]`.
        dst: layouts of the destination, `[d, axes]`.
        full_bytes: the whole tensor.
        axes: the mesh.

    Returns:
        (seconds `[s, d]`, bytes `[s, d]`): the copy is the resharded tensor, and while a partial
        sum is reduced also the unreduced one.
    """
    seconds = np.zeros((len(src), len(dst)))
    moved = np.zeros((len(src), len(dst)), dtype=bool)
    for step in steps(src, dst, full_bytes, axes):
        time = np.asarray(collective_time_s(step.kind, axes[step.axis], step.size_bytes))
        seconds += np.where(step.mask, time, 0.0)
        moved |= step.mask
    copy = np.where(moved, local_bytes(dst, full_bytes, axes)[None, :], 0.0)
    return seconds, copy
