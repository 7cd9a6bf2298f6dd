"""Machines from text: "v5e:2x4", "8xh100", "4x8xh100", "cpu:8"."""

from __future__ import annotations

import difflib
import math
import re

from autoshard.machine.catalogue import CatalogEntry, load_catalog
from autoshard.machine.errors import MachineError
from autoshard.machine.model import Machine
from autoshard.machine.network import Switched, Torus

_FORMS = (
    re.compile(r"(?P<chip>[A-Za-z][\w-]*):(?P<dims>[^:]*)"),  # v5e:2x4, cpu:8
    re.compile(r"(?P<dims>\d+(?:x\d+)*)x(?P<chip>[A-Za-z][\w-]*)"),  # 8xh100
)
_EXAMPLES = 'write "v5e:2x4" for a TPU slice, "8xh100" or "4x8xh100" for GPUs, "cpu:8" for CPU'


def parse_machine(text: str) -> Machine:
    """The machine a person writes.

    Args:
        text: "chip:AxB" (TPU slice by its dimensions), "GPUSxchip" (one node),
            "NODESxGPUSxchip", or "cpu:DEVICES".

    Raises:
        MachineError: an unknown chip, a malformed topology, a wrong number of dimensions, or
            more chips than a pod or a node has.
    """
    found = next((m for form in _FORMS if (m := form.fullmatch(text.strip()))), None)
    if found is None:
        raise MachineError(f"cannot read machine {text!r}: {_EXAMPLES}")
    entry = find_entry(found["chip"])
    sizes = found["dims"].lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise MachineError(
            f"machine {text!r}: {found['dims']!r} is not a topology; it must be positive "
            f"integers joined by x. {_EXAMPLES}"
        )
    return make_machine(entry, tuple(int(size) for size in sizes))


def find_entry(name: str) -> CatalogEntry:
    """The catalogue entry of a chip.

    Raises:
        MachineError: no such chip; lists the known ones and suggests the nearest.
    """
    catalog = load_catalog()
    if name.lower() in catalog:
        return catalog[name.lower()]
    near = difflib.get_close_matches(name.lower(), catalog, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise MachineError(f"unknown chip {name!r}{hint}? Known chips: {', '.join(sorted(catalog))}")


def make_machine(
    entry: CatalogEntry, topology: tuple[int, ...], memory_bytes: int | None = None
) -> Machine:
    """A machine of one kind of chip.

    Args:
        entry: the chip.
        topology: see `Machine.topology`; one node may be written (devices,) or (1, devices).
        memory_bytes: of one device, where it was asked of the device; None: catalogued.

    Raises:
        MachineError: the topology does not exist for this chip.
    """
    if isinstance(entry.network, Torus):
        _check_slice(entry.name, entry.network, topology)
        name = f"{entry.name}:{_joined(topology)}"
    else:
        _check_nodes(entry.name, entry.network, topology)
        topology = topology[1:] if len(topology) == 2 and topology[0] == 1 else topology
        on_host = entry.chip.platform == "cpu"
        name = f"{entry.name}:{topology[0]}" if on_host else f"{_joined(topology)}x{entry.name}"
    chip = entry.chip_for(math.prod(topology), memory_bytes)
    return Machine(name, chip, topology, entry.network, entry.chips_per_host)


def _check_slice(name: str, torus: Torus, topology: tuple[int, ...]) -> None:
    rank, pod = len(torus.pod_shape), _joined(torus.pod_shape)
    written = f"{name}:{_joined(topology)}"
    if len(topology) != rank:
        example = f"{name}:{'x'.join(['2', '2', '4'][-rank:])}"
        raise MachineError(
            f"{written} has {len(topology)} dimensions, but {name} slices have {rank}: "
            f'write for example "{example}"'
        )
    n_chips = math.prod(topology)
    longest = zip(sorted(topology), sorted(torus.pod_shape), strict=True)
    if n_chips > torus.max_chips or any(size > most for size, most in longest):
        raise MachineError(
            f"{written} ({n_chips} chips) is more than a slice can be: a {name} pod is {pod} "
            f"and its largest slice has {torus.max_chips} chips"
        )


def _check_nodes(name: str, network: Switched, topology: tuple[int, ...]) -> None:
    most = 1 if network.node_bytes_per_s is None else 2
    if len(topology) > most:
        form = f"{name}:8" if most == 1 else f"8x{name} or 4x8x{name}"
        raise MachineError(
            f"{_joined(topology)} {name} has {len(topology)} dimensions, at most {most} "
            f"can be: write {form}"
        )
    if topology[-1] > network.domain_devices:
        nodes = -(-topology[-1] // network.domain_devices)
        more = "" if most == 1 else f'; write "{nodes}x{network.domain_devices}x{name}" for nodes'
        raise MachineError(
            f"{topology[-1]} {name} in one node is more than the {network.domain_devices} that "
            f"{network.link_name} joins{more}"
        )


def _joined(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
