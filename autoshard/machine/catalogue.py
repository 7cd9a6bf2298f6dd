"""Reads the catalogue: one TOML file a chip, each number with its source and date.

A new chip is a new file in `catalog/`; nothing else changes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from autoshard.machine.errors import CatalogError
from autoshard.machine.model import Chip
from autoshard.machine.network import Network, Switched, Torus
from autoshard.machine.schema import Table, check


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a number comes from: a public page and the date it was read."""

    title: str
    url: str
    date: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One catalogue file.

    Attributes:
        title: name for people.
        chip: `memory_bytes` is 0 where the devices share their host's memory (see `chip_for`).
        network: what joins chips of this kind.
        device_kinds: what `jax.Device.device_kind` says for it.
        chips_per_host: None: not known.
        dcn_bytes_per_s_per_chip: one way, between slices; None: not known.
        usd_per_chip_hour: list price; None: not known.
        citations: per "section.key", where the number comes from.
    """

    title: str
    chip: Chip
    network: Network
    device_kinds: tuple[str, ...]
    chips_per_host: int | None
    dcn_bytes_per_s_per_chip: float | None
    usd_per_chip_hour: float | None
    citations: Mapping[str, Citation]

    @property
    def name(self) -> str:
        return self.chip.name

    def chip_for(self, n_devices: int, memory_bytes: int | None = None) -> Chip:
        """The chip with its memory known: as given, as catalogued, or a share of the host's."""
        if memory_bytes is None:
            memory_bytes = self.chip.memory_bytes or host_memory_bytes() // n_devices
        return replace(self.chip, memory_bytes=memory_bytes)


def host_memory_bytes() -> int:
    """Physical memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def load_catalog() -> Mapping[str, CatalogEntry]:
    """All chips by name.

    Raises:
        CatalogError: a file is malformed, or two files claim one name or device kind.
    """
    entries: dict[str, CatalogEntry] = {}
    kinds: dict[str, str] = {}
    folder = resources.files("autoshard.machine") / "catalog"
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if not path.name.endswith(".toml"):
            continue
        entry = read_entry(path.read_text(encoding="utf-8"), path.name)
        if entry.name in entries:
            raise CatalogError(f"{path.name}: name {entry.name!r} is taken by another file")
        entries[entry.name] = entry
        for kind in entry.device_kinds:
            if kind in kinds:
                raise CatalogError(f"{path.name}: device kind {kind!r} is also of {kinds[kind]}")
            kinds[kind] = entry.name
    return entries


def read_entry(text: str, file: str) -> CatalogEntry:
    """Parses one catalogue file.

    Args:
        text: TOML.
        file: its name, for messages.

    Raises:
        CatalogError: not TOML, or not of the form that `schema.py` describes.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{file}: not valid TOML: {error}") from error
    check(data, file)

    memory, compute, host = (_values(data, s) for s in ("memory", "compute", "host"))
    chip = Chip(
        name=data["name"],
        platform=data["platform"],
        memory_bytes=int(memory.get("bytes", 0)),
        memory_bytes_per_s=memory["bytes_per_s"],
        peak_flops_per_s=_values(data, "peak_flops_per_s"),
        matmul_efficiency=compute["matmul_efficiency"],
        memory_efficiency=memory["efficiency"],
        op_overhead_s=compute["op_overhead_s"],
        memory_margin=memory["margin"],
    )
    return CatalogEntry(
        title=data["title"],
        chip=chip,
        network=_NETWORKS[data["network"]](_values(data, data["network"])),
        device_kinds=tuple(data["device_kinds"]),
        chips_per_host=host.get("chips"),
        dcn_bytes_per_s_per_chip=host.get("dcn_bytes_per_s_per_chip"),
        usd_per_chip_hour=_values(data, "price").get("usd_per_chip_hour"),
        citations=_citations(data),
    )


def _torus(values: Table) -> Network:
    of_torus = {key: value for key, value in values.items() if key != "links_per_chip"}
    return Torus(**of_torus | {"pod_shape": tuple(values["pod_shape"])})


def _switched(values: Table) -> Network:
    return Switched(**values)


_NETWORKS: dict[str, Callable[[Table], Network]] = {"torus": _torus, "switched": _switched}


def _values(data: Table, section: str) -> dict[str, Any]:
    """A section's numbers without their sources."""
    return {
        key: entry["value"] if isinstance(entry, dict) else entry
        for key, entry in data.get(section, {}).items()
    }


def _citations(data: Table) -> dict[str, Citation]:
    sources = {name: Citation(**citation) for name, citation in data["sources"].items()}
    return {
        f"{section}.{key}": sources[entry["source"]]
        for section, entries in data.items()
        if isinstance(entries, dict) and section != "sources"
        for key, entry in entries.items()
        if isinstance(entry, dict)
    }
