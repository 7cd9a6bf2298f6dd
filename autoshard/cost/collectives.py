"""Seconds that one collective takes along one mesh axis.

Latency plus bandwidth ("alpha-beta"), with the conventions of "How to Scale Your Model"
(https://jax-ml.github.io/scaling-book/sharding/ and .../gpus/). With `n` devices along the axis,
`B = axis.bytes_per_s`, `L = axis.latency_s` and `V` the bytes on one device of the larger side:

    all-gather, reduce-scatter   V * (n - 1) / n / B + (n - 1) * L
    all-reduce                   a reduce-scatter and an all-gather: twice that; or, where it is
                                 quicker at this size, inside the switch or along a tree
                                 (`axis.other_all_reduces`)
    all-to-all                   V * (n - 1) / n / (all-to-all rate) + (n - 1) * L
    permute                      V / (rate to the neighbour) + (latency to the neighbour)

How a ring, line, grid, switch or network gets its rates is told in `autoshard/machine/torus.py`,
`switched.py` and `slices.py`; `docs/machines.md` collects the formulas. Overlap with compute and
with other collectives is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from autoshard.machine.model import MeshAxis

if TYPE_CHECKING:
    import numpy.typing as npt

    Size = TypeVar("Size", float, npt.NDArray[np.float64])
else:
    Size = TypeVar("Size")


def collective_time_s(
    kind: str, axis: MeshAxis, size_bytes: Size, latency_part: float = 1.0
) -> Size:
    """Time of one collective.

    Args:
        kind: "all-gather", "reduce-scatter", "all-reduce", "all-to-all" or "permute".
        axis: the mesh axis it runs along.
        size_bytes: on one device, of the larger side: an all-gather's result, a reduce-scatter's
            operand, otherwise the local array. A number, or an array of them.
        latency_part: how much of the latency falls to this tensor, if it travels with others.

    Returns:
        Seconds, of the same kind as `size_bytes`; 0 along an axis of size 1.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in _ALPHA_BETA:
        raise ValueError(f"unknown collective {kind!r}; known: {', '.join(_ALPHA_BETA)}")
    if axis.size == 1:
        return size_bytes * 0.0
    kind = formed(kind, axis)
    latency_s, s_per_byte = _ALPHA_BETA[kind](axis)
    time_s = size_bytes * s_per_byte + latency_s * latency_part
    if kind == "all-reduce":
        for latency_s, s_per_byte in axis.other_all_reduces:
            time_s = _least(time_s, size_bytes * s_per_byte + latency_s * latency_part)
    return time_s


def formed(kind: str, axis: MeshAxis) -> str:
    """The kind of collective that a compiler makes of another along an axis."""
    return "all-reduce" if kind in axis.as_all_reduce else kind


def _least(one: Size, other: Size) -> Size:
    if isinstance(one, float):
        return min(one, other)
    return np.minimum(one, other)


def _gather(axis: MeshAxis) -> tuple[float, float]:
    steps = axis.size - 1
    return steps * axis.latency_s, steps / axis.size / axis.bytes_per_s


def _reduce(axis: MeshAxis) -> tuple[float, float]:
    latency_s, s_per_byte = _gather(axis)
    return 2 * latency_s, 2 * s_per_byte


def _all_to_all(axis: MeshAxis) -> tuple[float, float]:
    steps = axis.size - 1
    rate = axis.all_to_all_bytes_per_s or axis.bytes_per_s
    return steps * axis.latency_s, steps / axis.size / rate


def _permute(axis: MeshAxis) -> tuple[float, float]:
    latency_s = axis.latency_s if axis.hop_latency_s is None else axis.hop_latency_s
    return latency_s, 1 / (axis.neighbour_bytes_per_s or axis.bytes_per_s)


# kind -> (latency in seconds, seconds per byte)
_ALPHA_BETA: dict[str, Callable[[MeshAxis], tuple[float, float]]] = {
    "all-gather": _gather,
    "reduce-scatter": _gather,
    "all-reduce": _reduce,
    "all-to-all": _all_to_all,
    "permute": _permute,
}

COLLECTIVES = frozenset(_ALPHA_BETA)
