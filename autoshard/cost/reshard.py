"""From one layout of a tensor to another: which collectives, over which axes, on how many bytes.

A layout is given per mesh axis: `on(dim, rank)` if the axis splits that dimension, `WHOLE` if it
splits none, or `PARTIAL` if every device along it holds a term of a sum still to be made. Where
several axes split one dimension, rank 0 is the major one. The order of collectives is the one that
moves least: slices first (free, and everything after is smaller), then reductions, exchanges,
gathers.

Everything is vectorised over pairs of layouts, since the search wants whole tables at once; one
pair is a 1 x 1 table. Collective sizes follow the convention of `collective_time_s`: bytes on one
device of the larger side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.cost.collectives import collective_time_s, formed
from autoshard.machine.model import MeshAxis

WHOLE = -1
PARTIAL = -2
_RANKS = 4  # more axes than any mesh has

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


def on(dim: int, rank: int = 0) -> int:
    """The state of an axis that splits a dimension; rank 0 is major to rank 1."""
    return dim * _RANKS + rank


def dim_of(state: Ints) -> Ints:
    """The dimension each axis splits; negative states stay as they are."""
    found: Ints = np.where(state >= 0, state // _RANKS, state)
    return found


def rank_of(state: Ints) -> Ints:
    """The rank of each axis on its dimension."""
    found: Ints = np.where(state >= 0, state % _RANKS, 0)
    return found


def local_bytes(state: Ints, full_bytes: float, axes: Sequence[MeshAxis]) -> Floats:
    """Bytes one device holds, per layout. Args: state `[n, axes]`."""
    sizes = np.array([axis.size for axis in axes], dtype=np.float64)
    shards: Floats = np.where(state >= 0, sizes, 1.0).prod(axis=1)
    return full_bytes / shards


def only_finishes(src: Ints, dst: Ints) -> Bools:
    """Whether pending sums are made whole and nothing else changes; axes are the last dimension."""
    found: Bools = ((src == dst) | ((src == PARTIAL) & (dst == WHOLE))).all(axis=-1)
    return found


def gathers_inner(src: Ints, dst: Ints, shape: Sequence[int], axes: Sequence[MeshAxis]) -> Bools:
    """Whether a dimension is gathered that another, longer than 1 on a device, lies outside of.

    Args:
        src: layouts of the source, `[s, axes]`.
        dst: layouts of the destination, `[d, axes]`.
        shape: of the whole tensor.
        axes: the mesh.
    """
    split, rows = dim_of(src), np.arange(len(src))
    sizes = np.array([axis.size for axis in axes], dtype=np.float64)
    long = np.stack(
        [n / np.where(split == d, sizes, 1.0).prod(axis=1) > 1 for d, n in enumerate(shape)], axis=1
    )
    inner = np.cumsum(long, axis=1) - long > 0
    found: Bools = np.zeros((len(src), len(dst)), dtype=bool)
    for a, axis in enumerate(axes):
        if axis.size > 1:
            held = (split[:, a] >= 0) & inner[rows, np.maximum(split[:, a], 0)]
            found |= held[:, None] & (dst[:, a] == WHOLE)[None, :]
    return found


def steps(src: Ints, dst: Ints, full_bytes: float, axes: Sequence[MeshAxis]) -> Iterator[Step]:
    """The collectives between every layout of `src` `[s, axes]` and of `dst` `[d, axes]`."""
    s, d = dim_of(src)[:, None, :], dim_of(dst)[None, :, :]
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
    yield from _permutes(src, dst, s, d, local, live)
    for a in live:
        mask = (s[:, :, a] >= 0) & (d[:, :, a] == WHOLE)
        if mask.any():
            local[mask] *= axes[a].size
            yield Step("all-gather", a, mask, local.copy())


def _permutes(
    src: Ints, dst: Ints, s: Ints, d: Ints, local: Floats, live: Sequence[int]
) -> Iterator[Step]:
    """Pieces that must change places because of the order of axes on one dimension.

    An axis that leaves or joins a dimension must be minor to those that stay on it; otherwise the
    pieces that stay are in another order afterwards and are passed around once. So they are when
    two axes that both stay swap ranks.
    """
    rs, rd = rank_of(src)[:, None, :], rank_of(dst)[None, :, :]
    for stay in live:
        stays = (s[:, :, stay] >= 0) & (s[:, :, stay] == d[:, :, stay])
        if not stays.any():
            continue
        moved = np.zeros(stays.shape, dtype=bool)
        for other in live:
            if other == stay:
                continue
            was = s[:, :, other] == s[:, :, stay]
            will = d[:, :, other] == d[:, :, stay]
            before = rs[:, :, other] < rs[:, :, stay]
            after = rd[:, :, other] < rd[:, :, stay]
            moved |= stays & was & ~will & before
            moved |= stays & will & ~was & after
            moved |= stays & was & will & (before != after) & (other < stay)
        if moved.any():
            yield Step("permute", stay, moved, local.copy())


def stages(
    src: Ints, dst: Ints, axes: Sequence[MeshAxis], *, sums_first: bool = False
) -> list[Ints]:
    """The layouts a tensor passes through on its way from one state `[axes]` to another.

    One per collective, in the order of `steps`, so that a compiler told to visit them one after
    the other has one thing to do at a time. The source comes first unless sums are pending.

    Sums want care, and what follows was found by compiling for TPU and GPU. Told where a sum
    shall be scattered, XLA forms the reduce-scatter itself; told to finish the sum first, it may
    finish all of it. But with an axis that the op leaves idle, the direct way is lost on it (it
    splits the op over that axis and passes pieces around), and where another axis splits the same
    dimension already, it may gather that one: then the summed value comes first.

    Args:
        src: state `[axes]` that it leaves,
        dst: and that it is to have.
        axes: of the mesh.
        sums_first: whether the summed value comes first in any case. Of a convolution XLA for TPUs
            otherwise computes the scattered sum piece by piece, and convolutions to a few channels
            at a time take it several times as long.
    """
    now, goal = src.copy(), dst
    live = [a for a, axis in enumerate(axes) if axis.size > 1]
    dims, goals = dim_of(src), dim_of(goal)
    found: list[Ints] = []

    def show() -> None:
        visible = np.where(now == PARTIAL, WHOLE, now)
        if not found or not np.array_equal(found[-1], visible):
            found.append(visible)

    pending = [a for a in live if dims[a] == PARTIAL]
    idle = any(dims[a] == WHOLE for a in live)
    if not pending:
        show()
    for a in live:
        if dims[a] == WHOLE and goals[a] >= 0:
            now[a] = goal[a]
    shared = any(goals[a] == dims[b] for a in pending for b in live if goals[a] >= 0)
    if idle or shared or sums_first or not pending:
        show()
    for a in sorted(pending, key=lambda a: goals[a] < 0):
        now[a] = goal[a]
        if goals[a] >= 0:
            show()
    for a in live:
        if dims[a] >= 0 and goals[a] >= 0 and dims[a] != goals[a]:
            now[a] = goal[a]
            show()
    for a in live:
        if dims[a] >= 0 and goals[a] == WHOLE:
            now[a] = WHOLE
            show()
    now = goal.copy()
    show()
    return found


@dataclass(frozen=True)
class Reshards:
    """What every pair of layouts costs, `[s, d]` each.

    Attributes:
        seconds: of all collectives.
        windowed_s: of gathers and reduce-scatters among them, which can go piece by piece.
        copy_bytes: the resharded tensor on one device, where it is another than the tensor itself.
    """

    seconds: Floats
    windowed_s: Floats
    copy_bytes: Floats


# Collectives that can go piece by piece, beside pieces of a matmul.
WINDOWED = frozenset({"all-gather", "reduce-scatter"})


@dataclass(frozen=True)
class Move:
    """One collective of many reshards, before the tensor's size is known.

    Attributes:
        kind, axis: of the collective.
        parts: the different sizes it may have, as parts of the whole tensor.
        which: per pair of layouts `[s, d]`, its place in `parts`; one more where there is none.
    """

    kind: str
    axis: MeshAxis
    parts: Floats
    which: Ints


@dataclass(frozen=True)
class Routes:
    """The ways between layouts, for tensors of any size.

    Attributes:
        moves: the collectives.
        copied: per pair of layouts, the part of the whole tensor that a copy holds.
    """

    moves: tuple[Move, ...]
    copied: Floats


def routes(src: Ints, dst: Ints, axes: Sequence[MeshAxis]) -> Routes:
    """The ways from every layout of `src` `[s, axes]` to every one of `dst` `[d, axes]`."""
    moves: list[Move] = []
    moved = np.zeros((len(src), len(dst)), dtype=bool)
    for step in steps(src, dst, 1.0, axes):
        parts, place = np.unique(step.size_bytes[step.mask], return_inverse=True)
        which = np.full(moved.shape, len(parts), dtype=np.int64)
        which[step.mask] = place.reshape(-1)
        moves.append(Move(step.kind, axes[step.axis], parts, which))
        moved |= step.mask
    return Routes(tuple(moves), np.where(moved, local_bytes(dst, 1.0, axes)[None, :], 0.0))


def priced(ways: Routes, full_bytes: float, latency_part: float = 1.0) -> Reshards:
    """What the ways cost.

    Args:
        ways: between layouts.
        full_bytes: the whole tensor.
        latency_part: as in `collective_time_s`.
    """
    seconds = np.zeros(ways.copied.shape)
    windowed = np.zeros_like(seconds)
    for move in ways.moves:
        time = collective_time_s(move.kind, move.axis, move.parts * full_bytes, latency_part)
        added = np.append(time, 0.0)[move.which]
        seconds += added
        if formed(move.kind, move.axis) in WINDOWED:
            windowed += added
    return Reshards(seconds, windowed, ways.copied * full_bytes)


def reshard_table(
    src: Ints,
    dst: Ints,
    full_bytes: float,
    axes: Sequence[MeshAxis],
    latency_part: float = 1.0,
) -> Reshards:
    """Price every pair of layouts: `priced(routes(...))`."""
    return priced(routes(src, dst, axes), full_bytes, latency_part)
