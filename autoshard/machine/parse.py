"""Machines from text: "v5e:2x4", "2*v5p:4x4x4", "8xh100", "4x8xh100", "4xgb200-nvl72", "cpu:8"."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path

from autoshard.machine.catalogue import CatalogEntry, load_catalog, read_file
from autoshard.machine.errors import MachineError
from autoshard.machine.model import Machine
from autoshard.machine.network import Network, Slices, Switched, Torus

_FORMS = (
    # v5e:2x4, 2*v5p:4x4x4, cpu:8
    re.compile(r"(?:(?P<slices>\d+)\*)?(?P<chip>[A-Za-z][\w-]*):(?P<dims>[^:]*)"),
    re.compile(r"(?P<dims>\d+(?:x\d+)*)x(?P<chip>[A-Za-z][\w-]*)"),  # 8xh100
)
_EXAMPLES = (
    'write "v5e:2x4" for a TPU slice, "2*v5p:4x4x4" for two, "8xh100" or "4x8xh100" for GPUs, '
    '"cpu:8" for CPU, or the path of a machine file (.toml)'
)


def parse_machine(text: str) -> Machine:
    """The machine a person writes.

    Args:
        text: "chip:AxB" (TPU slice by its dimensions), "SLICES*chip:AxB", "GPUSxchip" (one node),
            "NODESxGPUSxchip", "RACKSxchip" for chips that come in racks, "cpu:DEVICES", or the
            path of a machine file that ends in .toml. A chip may have a variant, which says whose
            nodes it stands in: "16x8xh100-p5".

    Raises:
        MachineError: an unknown chip, a malformed topology, a wrong number of dimensions, more
            chips than a pod or a node has, or a chip some needed number of which is not known.
    """
    if text.strip().endswith(".toml"):
        return _machine_of_file(Path(text.strip()).expanduser())
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
    topology = tuple(int(size) for size in sizes)
    slices = int(found.groupdict().get("slices") or 1)
    # One number before a chip that comes in racks counts racks; after it, devices of one rack.
    if found.re is _FORMS[1] and len(topology) == 1 and entry.rack_devices is not None:
        topology = (*topology, entry.rack_devices)
    return make_machine(entry, topology, slices=slices)


def _machine_of_file(path: Path) -> Machine:
    entry = read_file(path)
    if entry.topology is None:
        raise MachineError(
            f"{path.name}: describes a chip, not a machine: add a line such as topology = [8] "
            "above its sections, or name its folder in AUTOSHARD_MACHINES and write "
            f'"{_written(entry, (8,))}"'
        )
    return make_machine(entry, entry.topology)


def find_entry(name: str) -> CatalogEntry:
    """The catalogue entry of a chip, or of a variant of it such as "h100-p5".

    Raises:
        MachineError: no such chip or variant; lists the known ones and suggests the nearest.
    """
    catalog = load_catalog()
    written = name.lower()
    if written in catalog:
        return catalog[written]
    for chip in sorted(catalog, key=len, reverse=True):
        if not written.startswith(f"{chip}-"):
            continue
        variants = catalog[chip].variants
        variant = written.removeprefix(f"{chip}-")
        if variant in variants:
            return variants[variant]
        known = ", ".join(f"{chip}-{v}" for v in sorted(variants)) or "none"
        raise MachineError(f"{chip} has no variant {variant!r}; known: {known}")
    longer = sorted(chip for chip in catalog if chip.startswith(written))
    near = longer[:1] or difflib.get_close_matches(written, catalog, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise MachineError(f"unknown chip {name!r}{hint}? Known chips: {', '.join(sorted(catalog))}")


def make_machine(
    entry: CatalogEntry,
    topology: tuple[int, ...],
    memory_bytes: int | None = None,
    slices: int = 1,
) -> Machine:
    """A machine of one kind of chip.

    Args:
        entry: the chip.
        topology: chips per dimension of one slice, or nodes and devices per node; one node may be
            written (devices,) or (1, devices).
        memory_bytes: of one device, where it was asked of the device; None: catalogued.
        slices: of a TPU.

    Raises:
        MachineError: the topology does not exist for this chip, or a number is not known.
    """
    if entry.unknown:
        raise MachineError(
            f"{entry.name} ({entry.title}) cannot be used without {' and '.join(entry.unknown)}, "
            "which no source was found for and which is not guessed. "
            "Copy its file from autoshard/machine/catalog, add the number with its source, and "
            "pass the path of the file or name its folder in AUTOSHARD_MACHINES"
        )
    network: Network = entry.network
    if isinstance(entry.network, Torus):
        _check_slice(entry.name, entry.network, topology)
        name = _written(entry, topology)
        if entry.devices_per_chip > 1:
            topology = (*topology, entry.devices_per_chip)
        if slices != 1:
            network = _slices(entry, entry.network, slices)
            topology = (slices, *topology)
            name = f"{slices}*{name}"
    elif slices != 1:
        raise MachineError(
            f"{slices}*{entry.name} has slices, which only TPUs have: "
            f'write "{slices}x8x{entry.name}" for nodes'
        )
    else:
        _check_nodes(entry, entry.network, topology)
        topology = topology[1:] if len(topology) == 2 and topology[0] == 1 else topology
        name = _written(entry, topology)
    chip = entry.chip_for(math.prod(topology), memory_bytes)
    return Machine(name, chip, topology, network, entry.chips_per_host)


def _slices(entry: CatalogEntry, torus: Torus, slices: int) -> Slices:
    if slices < 1:
        raise MachineError(f"{slices}*{entry.name}: a machine has at least one slice")
    numbers = {
        "host.dcn_bytes_per_s_per_chip": entry.dcn_bytes_per_s_per_chip,
        "host.dcn_latency_s": entry.dcn_latency_s,
    }
    rate, latency_s = numbers.values()
    if rate is None or latency_s is None:
        absent = " and ".join(key for key, value in numbers.items() if value is None)
        raise MachineError(
            f"{slices} slices of {entry.name} cannot be costed without {absent}, which the "
            "catalogue does not have; use one slice, or a machine file of your own with the number"
        )
    return Slices(torus, rate / torus.cores_per_chip, latency_s)


def _written(entry: CatalogEntry, topology: tuple[int, ...]) -> str:
    """What a person would write for it."""
    if isinstance(entry.network, Torus) or entry.chip.platform == "cpu":
        return f"{entry.name}:{_joined(topology)}"
    if entry.rack_devices == topology[-1]:
        return f"{topology[0] if len(topology) == 2 else 1}x{entry.name}"
    if entry.rack_devices is not None and len(topology) == 1:
        return f"{entry.name}:{topology[0]}"
    return f"{_joined(topology)}x{entry.name}"


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


def _check_nodes(entry: CatalogEntry, network: Switched, topology: tuple[int, ...]) -> None:
    name = entry.name
    most = 1 if network.node_bytes_per_s is None else 2
    if len(topology) > most:
        form = f"{name}:8" if most == 1 else f"8x{name} or 4x8x{name}"
        if most == 1 and entry.chip.platform != "cpu":
            raise MachineError(
                f"{_joined(topology)}x{name} has several nodes, but switched.node_bytes_per_s of "
                f"{name} is not known; use one node, or a machine file of your own with the number"
            )
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
