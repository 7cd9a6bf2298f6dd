"""The meshes that can be laid over a machine, and the best way to lay each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from autoshard.machine.errors import MachineError
from autoshard.machine.model import LogicalMesh, Machine, MeshAxis
from autoshard.machine.network import Network, Slices, Switched, Torus
from autoshard.machine.placement import Piece, Placement, divisors, outer_size, placements
from autoshard.machine.slices import slices_axis, slices_order
from autoshard.machine.switched import switched_axis, switched_order
from autoshard.machine.torus import MAX_CUTS, torus_axis, torus_order
from autoshard.machine.walk import Cell

MAX_AXES = 3


def legal_meshes(
    machine: Machine, axis_names: Sequence[str] = ("data", "tensor")
) -> tuple[LogicalMesh, ...]:
    """Every way to factor the devices into these axes that the network can carry.

    One mesh per factorisation, laid out as `mesh_from_sizes` does; first axis largest first:
    8 devices give 8x1, 4x2, 2x4, 1x8.

    Raises:
        MachineError: no axis, too many, or a name twice.
    """
    _check_names(axis_names)
    return _legal(machine, tuple(axis_names))


@lru_cache(maxsize=16)  # a plan cache, a report and a sweep ask again for the same
def _legal(machine: Machine, axis_names: tuple[str, ...]) -> tuple[LogicalMesh, ...]:
    found = (
        _lay(machine, dict(zip(axis_names, sizes, strict=True)))
        for sizes in _factorisations(machine.n_devices, len(axis_names))
    )
    return tuple(mesh for mesh in found if mesh is not None)


def mesh_from_sizes(machine: Machine, sizes: Mapping[str, int]) -> LogicalMesh:
    """Lays axes of these sizes, major to minor, over the machine.

    On a torus it takes the placement that cuts no physical dimension between axes if there is
    one, then the one with the largest product of axis bandwidths; among nodes it keeps the last
    axes inside a node, among slices inside a slice. An axis that is larger than what is left of a
    node or slice runs over several with its outer part.

    Args:
        machine: the devices.
        sizes: devices per axis, 1 to 3 axes.

    Raises:
        MachineError: sizes that are below 1, do not multiply to the machine's devices, or
            cannot be laid on its torus; says which and why.
    """
    _check_names(tuple(sizes))
    written = " x ".join(f"{name} {size}" for name, size in sizes.items())
    for name, size in sizes.items():
        if size < 1:
            raise MachineError(f"mesh {written}: axis {name!r} has size {size}, the least is 1")
    product = math.prod(sizes.values())
    if product != machine.n_devices:
        raise MachineError(
            f"mesh {written} has {product} positions, but {machine.name} has "
            f"{machine.n_devices} devices; sizes must multiply to {machine.n_devices}"
        )
    mesh = _lay(machine, sizes)
    if mesh is None:
        raise MachineError(
            f"mesh {written} cannot be laid on {machine.name}: it would cut one physical "
            f"dimension between more than {MAX_CUTS} axes, whose links would then lie neither "
            "between neighbours nor on rings; use fewer axes or a topology with more dimensions"
        )
    return mesh


def _check_names(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MAX_AXES or len(set(names)) != len(names):
        raise MachineError(
            f"a mesh has 1 to {MAX_AXES} axes of different names, got {len(names)}: {list(names)}"
        )


def _factorisations(n: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(n,)]
    return [
        (first, *rest)
        for first in reversed(divisors(n))
        for rest in _factorisations(n // first, parts - 1)
    ]


def _lay(machine: Machine, sizes: Mapping[str, int]) -> LogicalMesh | None:
    """The best placement as a mesh; None where there is none."""
    ground = _GROUNDS[type(machine.network)]
    best = _best(machine.network, machine.topology, tuple(sizes.values()))
    if best is None:
        return None
    axes, placement = best
    named = (replace(axis, name=name) for name, axis in zip(sizes, axes, strict=True))
    return LogicalMesh(tuple(named), _device_order(machine, placement, ground))


@lru_cache(maxsize=4096)
def _best(
    network: Network, topology: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[tuple[MeshAxis, ...], Placement] | None:
    ground = _GROUNDS[type(network)]
    for cuts in ground.cuts:
        laid = (
            (tuple(map(partial(_axis, network, topology), sizes, placement)), placement)
            for placement in placements(topology, sizes, cuts)
        )
        best = max(laid, key=lambda pair: ground.merit(*pair), default=None)
        if best is not None:
            return best
    return None


@lru_cache(maxsize=1 << 16)  # axes of one mesh come back in many others
def _axis(
    network: Network, topology: tuple[int, ...], size: int, pieces: tuple[Piece, ...]
) -> MeshAxis:
    return _GROUNDS[type(network)].axis("", size, pieces, network, topology)


def _torus_merit(axes: tuple[MeshAxis, ...], placement: Placement) -> tuple[float, ...]:
    """The largest product of bandwidths, then few pieces, then fast last axes."""
    pieces = sum(map(len, placement))
    # Rounded, so that equal products compare equal whatever the order of multiplication.
    product = round(sum(math.log(axis.bytes_per_s) for axis in axes if axis.size > 1), 9)
    return (product, -pieces, *_last_axes_first(axes))


def _slices_merit(axes: tuple[MeshAxis, ...], placement: Placement) -> tuple[float, ...]:
    """The first axes take the slices; then few cut dimensions; then as within one slice."""
    dims = [{piece.dim for piece in pieces} for pieces in placement]
    shared = sum(map(len, dims)) - len(set().union(*dims))
    return (*_outside_last(placement), -shared, *_torus_merit(axes, placement))


def _nodes_merit(axes: tuple[MeshAxis, ...], placement: Placement) -> tuple[float, ...]:
    """The first axes take the nodes: NVLink before the network; then fast last axes."""
    return (*_outside_last(placement), *_last_axes_first(axes))


def _outside_last(placement: Placement) -> tuple[float, ...]:
    """Of slices or nodes, the last axis gets as few as can be, then the one before."""
    return tuple(-outer_size(pieces) for pieces in reversed(placement))


def _last_axes_first(axes: tuple[MeshAxis, ...]) -> tuple[float, ...]:
    """Gives the last axis the bandwidth that it can have, then the one before."""
    return tuple(axis.bytes_per_s for axis in reversed(axes) if axis.size > 1)


class _Ground(NamedTuple):
    """How axes lie on one kind of network; of all placements the largest `merit` is taken."""

    axis: Callable[[str, int, tuple[Piece, ...], Any, tuple[int, ...]], MeshAxis]
    order: Callable[[tuple[Piece, ...], Any], tuple[Cell, ...]]
    merit: Callable[[tuple[MeshAxis, ...], Placement], tuple[float, ...]]
    # Into how many pieces one physical dimension may be cut: the first that works is taken.
    cuts: tuple[int, ...]


# On a torus whole dimensions come first, because collectives between chips that are not neighbours
# are the least certain to run as predicted. A switch has no such distances.
_TORUS_CUTS = tuple(range(1, MAX_CUTS + 1))
_GROUNDS: dict[type[Network], _Ground] = {
    Torus: _Ground(torus_axis, torus_order, _torus_merit, _TORUS_CUTS),
    Slices: _Ground(slices_axis, slices_order, _slices_merit, (MAX_CUTS,)),
    Switched: _Ground(switched_axis, switched_order, _nodes_merit, (MAX_AXES,)),
}


def _device_order(machine: Machine, placement: Placement, ground: _Ground) -> tuple[int, ...]:
    """For each mesh position, row-major, the device's row-major index in the topology."""
    steps = [math.prod(machine.topology[dim + 1 :]) for dim in range(len(machine.topology))]
    order = np.zeros(1, dtype=np.int64)
    for pieces in placement:
        cells = np.array(ground.order(pieces, machine.network), dtype=np.int64)
        offsets = cells @ np.array([p.stride * steps[p.dim] for p in pieces], dtype=np.int64)
        order = (order[:, None] + offsets).ravel()
    return tuple(order.tolist())
