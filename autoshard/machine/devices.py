"""Machines from what JAX says about its devices, passed as plain strings and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from autoshard.machine.catalogue import CatalogEntry, load_catalog
from autoshard.machine.errors import MachineError
from autoshard.machine.model import Machine
from autoshard.machine.network import Switched, Torus
from autoshard.machine.parse import make_machine


def machine_for_devices(
    platform: str,
    device_kind: str,
    n: int,
    coords: Sequence[tuple[int, ...]] | None = None,
    memory_bytes: int | None = None,
    slice_indices: Sequence[int] | None = None,
) -> Machine:
    """The machine that a set of JAX devices is.

    Args:
        platform: `jax.Device.platform`.
        device_kind: `jax.Device.device_kind`.
        n: number of devices.
        coords: `jax.Device.coords` of every device of a TPU slice, in any order; each as often
            as its chip has devices. The machine numbers its devices row-major over them, so sort
            devices by slice, coordinates and core before applying a mesh's `device_order`.
            Slices are told apart by `slice_indices`.
        memory_bytes: of one device, where it is known; None: catalogued.
        slice_indices: `jax.Device.slice_index` of every device, in the order of `coords`; None:
            one slice.

    Raises:
        MachineError: a device kind that no catalogue file lists, coordinates that are missing
            or do not fill a box, or GPUs that do not fill their nodes.
    """
    entry = entry_of_devices(platform, device_kind)
    if n < 1:
        raise MachineError(f"a machine needs at least one device, got {n}")
    if isinstance(entry.network, Torus):
        shapes = {
            _slice_shape(entry.network, len(part), part, device_kind)
            for part in _by_slice(coords, slice_indices)
        } or {_slice_shape(entry.network, n, None, device_kind)}
        slices = len(set(slice_indices)) if slice_indices and coords else 1
        if len(shapes) > 1:
            written = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
            raise MachineError(
                f"{slices} slices of kind {device_kind!r} have shapes {written}; all slices of a "
                "machine must be alike"
            )
        if coords is not None and len(coords) != n:
            raise MachineError(f"{n} devices of kind {device_kind!r}, {len(coords)} coordinates")
        return make_machine(entry, shapes.pop(), memory_bytes, slices)
    return make_machine(entry, _node_shape(entry.network, n, device_kind), memory_bytes)


def _by_slice(
    coords: Sequence[tuple[int, ...]] | None, slice_indices: Sequence[int] | None
) -> list[list[tuple[int, ...]]]:
    if coords is None:
        return []
    parts: dict[int, list[tuple[int, ...]]] = {}
    for index, at in zip(slice_indices or [0] * len(coords), coords, strict=True):
        parts.setdefault(index, []).append(at)
    return list(parts.values())


def entry_of_devices(platform: str, device_kind: str) -> CatalogEntry:
    """The catalogue entry of a device kind.

    Raises:
        MachineError: no file lists it.
    """
    catalog = load_catalog()
    for entry in catalog.values():
        if device_kind in entry.device_kinds:
            return entry
    known = known_kinds()
    raise MachineError(
        f"{platform} devices of kind {device_kind!r} are not in the catalogue, which knows "
        f"{', '.join(map(repr, known))}. Name the nearest machine yourself, for example "
        'on="v5e:2x4", or measure these devices: autoshard calibrate --out machine.toml'
    )


def known_kinds() -> list[str]:
    """Device kinds of all files, sorted."""
    return sorted(kind for entry in load_catalog().values() for kind in entry.device_kinds)


def _slice_shape(
    torus: Torus, n: int, coords: Sequence[tuple[int, ...]] | None, kind: str
) -> tuple[int, ...]:
    rank, cores = torus.rank, torus.cores_per_chip
    if coords is None:
        if n == 1 and cores == 1:
            return (1,) * rank
        raise MachineError(
            f"{n} devices of kind {kind!r} without coordinates: pass jax.Device.coords of each, "
            "they say which chips are neighbours"
        )
    spans = [max(axis) - min(axis) + 1 for axis in zip(*coords, strict=True)]
    box = 1
    for span in spans:
        box *= span
    if len(coords) != n or len(set(coords)) * cores != n or box * cores != n:
        shape = "x".join(map(str, spans))
        each = f", each {cores} times: a chip is {cores} devices" if cores > 1 else ", each once"
        raise MachineError(
            f"{n} devices of kind {kind!r} have {len(set(coords))} different coordinates that "
            f"span a box of {shape} = {box} chips; give all devices of one box{each}"
        )
    # JAX reports three coordinates for every TPU; a two-dimensional slice has z = 0 throughout.
    if len(spans) < rank or any(span > 1 for span in spans[rank:]):
        raise MachineError(f"coordinates of kind {kind!r} span {spans}, expected {rank} dimensions")
    return tuple(spans[:rank])


def _node_shape(network: Switched, n: int, kind: str) -> tuple[int, ...]:
    per_node = network.domain_devices
    if n <= per_node or network.node_bytes_per_s is None:
        return (n,)
    if n % per_node:
        raise MachineError(
            f"{n} devices of kind {kind!r} do not fill nodes of {per_node}; use a multiple of "
            f'{per_node} devices, or name the machine, for example on="4x{per_node}xh100"'
        )
    return (n // per_node, per_node)
