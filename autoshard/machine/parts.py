"""A machine cut into equal machines: sub-slices of a torus, whole slices, nodes, parts of a node.

A part is a machine that could be had by itself, and is priced as one. A dimension that is cut no
longer closes to a ring, so parts that would have one there by themselves are left out.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace

import numpy as np

from autoshard.machine.errors import MachineError
from autoshard.machine.model import Machine
from autoshard.machine.network import Slices, Torus
from autoshard.machine.parse import parse_machine


@dataclass(frozen=True)
class Parts:
    """One way to cut a machine.

    Attributes:
        machine: one part.
        devices: per part, its devices in its own order, as the whole machine numbers them.
    """

    machine: Machine
    devices: tuple[tuple[int, ...], ...]


def equal_parts(machine: Machine, count: int) -> Parts | None:
    """The machine in so many equal parts, the most compact there are; None where there are none."""
    found: list[tuple[tuple[int, ...], Machine]] = []
    for shape in _shapes(machine, count):
        part = _part(machine, shape)
        if part is not None:
            found.append((shape, part))
    if not found:
        return None
    shape, part = min(found, key=lambda each: (sum(each[0]), each[0]))
    grid = np.arange(machine.n_devices).reshape(machine.topology)
    blocks = itertools.product(
        *(range(0, whole, size) for whole, size in zip(machine.topology, shape, strict=True))
    )
    devices = tuple(
        tuple(
            grid[tuple(slice(at, at + size) for at, size in zip(corner, shape, strict=True))]
            .ravel()
            .tolist()
        )
        for corner in blocks
    )
    return Parts(part, devices)


def counts(machine: Machine) -> list[int]:
    """Into how many equal parts a machine can be cut, 1 aside."""
    n = machine.n_devices
    return [k for k in range(2, n + 1) if n % k == 0 and equal_parts(machine, k) is not None]


def _shapes(machine: Machine, count: int) -> list[tuple[int, ...]]:
    """Boxes of the right size: outer dimensions are cut before what they join."""
    whole = machine.topology
    inner = 0 if isinstance(machine.network, Torus) else 1 if len(whole) > 1 else 0
    sizes = [[d for d in range(1, n + 1) if n % d == 0] for n in whole]
    cores = machine.network.torus if isinstance(machine.network, Slices) else machine.network
    if isinstance(cores, Torus) and cores.cores_per_chip > 1:
        sizes[-1] = [whole[-1]]
    return [
        shape
        for shape in itertools.product(*sizes)
        if math.prod(shape) * count == machine.n_devices
        and (not inner or shape[0] == 1 or shape[1:] == whole[1:])
    ]


def _part(machine: Machine, shape: tuple[int, ...]) -> Machine | None:
    """The machine of a box; None where there is no such machine, or it would have more rings."""
    network = machine.network
    torus = network.torus if isinstance(network, Slices) else network
    outer = 1 if isinstance(network, Slices) else 0
    box = shape[outer:]
    if isinstance(torus, Torus):
        rank = torus.rank
        own, had = torus.wraps(box), torus.wraps(machine.topology[outer:])
        for ring, was, size, whole in zip(
            own, had, box[:rank], machine.topology[outer:][:rank], strict=True
        ):
            if ring and not (was and size == whole):
                return None
        slices = f"{shape[0]}*" if outer and shape[0] > 1 else ""
        name = f"{slices}{_chip(machine)}:{'x'.join(map(str, box[:rank]))}"
    elif machine.chip.platform == "cpu":
        name = f"{_chip(machine)}:{shape[-1]}"
    else:
        box = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
        name = f"{'x'.join(map(str, box))}x{_chip(machine)}"
    try:
        part = parse_machine(name)
    except MachineError:
        return None
    # A device keeps its memory, also where devices share that of their host.
    part = replace(part, chip=machine.chip)
    return part if part.n_devices == math.prod(shape) else None


def _chip(machine: Machine) -> str:
    """The chip as it is written in the machine's name."""
    if ":" in machine.name:
        return machine.name.split("*")[-1].split(":")[0]
    return re.sub(r"^(\d+x)+", "", machine.name)
