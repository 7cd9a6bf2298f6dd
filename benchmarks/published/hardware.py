"""The machines that published runs name, as ours."""

from __future__ import annotations

import re
from dataclasses import replace

from autoshard.errors import AutoshardError
from autoshard.machine.model import Machine
from autoshard.machine.network import Switched
from autoshard.machine.parse import parse_machine
from benchmarks.published.rows import Row

# First match wins: what the source writes -> our chip, and memory where it is not the catalogue's.
_CHIPS: tuple[tuple[str, str, float | None], ...] = (
    (r"A100.* or H100", "", None),
    (r"H100.*EFA|AWS p5", "h100-p5", None),
    (r"H100.*A3", "h100-a3-high", None),
    (r"H100", "h100", None),
    (r"H200", "h200", None),
    (r"GB200", "gb200-nvl72", None),
    (r"^B200", "b200", None),
    (r"MI300X", "mi300x", None),
    (r"A100.*40 ?GB", "a100-40", None),
    (r"A100", "a100-80", None),
    (r"V100.*32GB.*p3dn", "v100-p3dn", 32e9),
    (r"V100", "v100", None),
    (r"TPU v(4|5e|5p|6e)", r"v\1", None),
)
# Slices of chips that are tori of three dimensions, as near to a cube as the clouds sell them:
# https://cloud.google.com/tpu/docs/v5p and .../v4, tables of topologies.
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 192: "4x4x12",
    256: "4x8x8", 384: "4x8x12", 512: "8x8x8", 768: "8x8x12", 1024: "8x8x16", 1536: "8x12x16",
    2048: "8x16x16", 3072: "12x16x16", 4096: "16x16x16",
}  # fmt: skip
_SQUARES = {
    1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16",
}  # fmt: skip
_PER_NODE = re.compile(r"(\d+) Gb/s[^,]* per node")


class UnknownMachine(AutoshardError):
    """The source names no machine that we know."""


def chip_of(row: Row) -> str:
    """The catalogue's name of the chip.

    Raises:
        UnknownMachine: there is none.
    """
    for pattern, chip, _ in _CHIPS:
        found = re.search(pattern, row.hardware)
        if found and chip:
            return found.expand(chip)
        if found:
            break
    raise UnknownMachine(f"no chip in the catalogue for hardware {row.hardware!r}")


def machine_of(row: Row) -> Machine:
    """The machine of a run.

    Raises:
        UnknownMachine: its chip or its size is not known; says which.
    """
    chip = chip_of(row)
    machine = parse_machine(_written(row, chip))
    memory = next((m for p, _, m in _CHIPS if m and re.search(p, row.hardware)), None)
    if memory is not None:
        machine = replace(machine, chip=replace(machine.chip, memory_bytes=int(memory)))
    rate = _PER_NODE.search(row.hardware)
    if rate and isinstance(machine.network, Switched):
        of_node = float(rate[1]) * (8 if "x HDR" in row.hardware else 1)
        network = replace(machine.network, node_bytes_per_s=of_node * 1e9 / 8)
        machine = replace(machine, network=network)
    return machine


def _written(row: Row, chip: str) -> str:
    if not chip.startswith("v") or chip.startswith("v100"):
        node = 72 if chip.startswith("gb200") else 8
        if row.chips <= node:
            return f"1x{row.chips}x{chip}"
        if row.chips % node:
            # Racks are rarely filled: 64 of 72 devices are in use.
            node = max(d for d in range(1, node + 1) if row.chips % d == 0)
        return f"{row.chips // node}x{node}x{chip}"
    known = _CUBES if chip in ("v4", "v5p") else _SQUARES
    slices = row.layout.data if row.layout is not None and "slice" in row.hardware + row.id else 1
    if row.chips % slices or row.chips // slices not in known:
        slices = max(1, row.chips // max(known))
    if row.chips // slices not in known or row.chips % slices:
        raise UnknownMachine(f"no slice of {chip} with {row.chips / slices:g} chips")
    shape = known[row.chips // slices]
    return f"{chip}:{shape}" if slices == 1 else f"{slices}*{chip}:{shape}"
