"""The meshes that can be laid over a machine, and the best way to lay each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from autoshard.machine.errors import MachineError
from autoshard.machine.model import LogicalMesh, Machine, MeshAxis
from autoshard.machine.network import Network, Switched, Torus
from autoshard.machine.placement import Piece, Placement, divisors, placements
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
    found = (
        _lay(machine, dict(zip(axis_names, sizes, strict=True)))
        for sizes in _factorisations(machine.n_devices, len(axis_names))
    )
    return tuple(mesh for mesh in found if mesh is not None)


def mesh_from_sizes(machine: Machine, sizes: Mapping[str, int]) -> LogicalMesh:
    """Lays axes of these sizes, major to minor, over the machine.

    On a torus it takes the placement that cuts no physical dimension between axes if there is
    one, then the one with the largest product of axis bandwidths; among nodes it keeps the last
    axes inside a node.

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

    def axes(placement: Placement) -> tuple[MeshAxis, ...]:
        return tuple(
            ground.axis(name, size, pieces, machine.network, machine.topology)
            for (name, size), pieces in zip(sizes.items(), placement, strict=True)
        )

    for cuts in ground.cuts:
        found = placements(machine.topology, tuple(sizes.values()), cuts)
        laid = ((axes(placement), placement) for placement in found)
        best = max(laid, key=lambda pair: ground.merit(*pair), default=None)
        if best is not None:
            return LogicalMesh(best[0], _device_order(machine, best[1], ground))
    return None


def _torus_merit(axes: tuple[MeshAxis, ...], placement: Placement) -> tuple[float, ...]:
    """The largest product of bandwidths, then few pieces, then fast last axes."""
    pieces = sum(map(len, placement))
    # Rounded, so that equal products compare equal whatever the order of multiplication.
    product = round(sum(math.log(axis.bytes_per_s) for axis in axes if axis.size > 1), 9)
    return (product, -pieces, *_last_axes_first(axes, placement))


def _last_axes_first(axes: tuple[MeshAxis, ...], placement: Placement) -> tuple[float, ...]:
    """Gives the last axis what it can have, then the one before: NVLink before the network."""
    return tuple(axis.bytes_per_s for axis in reversed(axes) if axis.size > 1)


class _Ground(NamedTuple):
    """How axes lie on one kind of network; of all placements the largest `merit` is taken."""

    axis: Callable[[str, int, tuple[Piece, ...], Any, tuple[int, ...]], MeshAxis]
    order: Callable[[tuple[Piece, ...]], tuple[Cell, ...]]
    merit: Callable[[tuple[MeshAxis, ...], Placement], tuple[float, ...]]
    # Into how many pieces one physical dimension may be cut: the first that works is taken.
    cuts: tuple[int, ...]


# On a torus whole dimensions come first, because collectives between chips that are not neighbours
# are the least certain to run as predicted. A switch has no such distances.
_GROUNDS: dict[type[Network], _Ground] = {
    Torus: _Ground(torus_axis, torus_order, _torus_merit, tuple(range(1, MAX_CUTS + 1))),
    Switched: _Ground(switched_axis, switched_order, _last_axes_first, (MAX_AXES,)),
}


def _device_order(machine: Machine, placement: Placement, ground: _Ground) -> tuple[int, ...]:
    """For each mesh position, row-major, the device's row-major index in the topology."""
    steps = [math.prod(machine.topology[dim + 1 :]) for dim in range(len(machine.topology))]
    offsets = [
        [
            sum(c * p.stride * steps[p.dim] for c, p in zip(cell, pieces, strict=True))
            for cell in ground.order(pieces)
        ]
        for pieces in placement
    ]
    return tuple(sum(position) for position in itertools.product(*offsets))
