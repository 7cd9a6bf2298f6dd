"""Reads the catalogue: one TOML file a chip, each number with its source and date.

A new chip is a new file in `catalog/`, or in a folder of the user's that the environment variable
AUTOSHARD_MACHINES names; nothing else changes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from autoshard.machine.errors import CatalogError
from autoshard.machine.model import Chip, MatrixUnit, Overlap
from autoshard.machine.network import Switched, Torus
from autoshard.machine.schema import Table, check, unknown_numbers

USER_FOLDER = "AUTOSHARD_MACHINES"


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
        chip: one JAX device: half a chip where JAX shows two. `memory_bytes` is 0 where the
            devices share their host's memory (see `chip_for`).
        network: what joins chips of this kind.
        device_kinds: what `jax.Device.device_kind` says for it.
        chips_per_host: None: not known.
        dcn_bytes_per_s_per_chip: one way, between slices; None: not known.
        usd_per_chip_hour: list price; None: not known.
        citations: per "section.key", where the number comes from.
        unknown: numbers that nobody published and nothing can be costed without.
        dcn_latency_s: of one step between slices; None: not known.
        node_name: whose nodes the network numbers are of: "DGX H100"; "" where there is one kind.
        variants: the same chip in nodes of others, by suffix: "p5" for "h100-p5".
        variant: the suffix, of an entry that is one of those.
        rack_devices: devices of a rack, where people count racks of it, as in "4xgb200-nvl72".
        topology: of the one machine that a user's file describes; None: a file for any number.
        data: the file as it was read.
    """

    title: str
    chip: Chip
    network: Torus | Switched
    device_kinds: tuple[str, ...]
    chips_per_host: int | None
    dcn_bytes_per_s_per_chip: float | None
    usd_per_chip_hour: float | None
    citations: Mapping[str, Citation]
    unknown: tuple[str, ...] = ()
    dcn_latency_s: float | None = None
    node_name: str = ""
    variants: Mapping[str, CatalogEntry] = field(default_factory=dict)
    variant: str = ""
    rack_devices: int | None = None
    topology: tuple[int, ...] | None = None
    data: Table = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What people write: "h100", or "h100-p5" for a variant."""
        return f"{self.chip.name}-{self.variant}" if self.variant else self.chip.name

    @property
    def devices_per_chip(self) -> int:
        return self.network.cores_per_chip if isinstance(self.network, Torus) else 1

    def chip_for(self, n_devices: int, memory_bytes: int | None = None) -> Chip:
        """The chip with its memory known: as given, as catalogued, or a share of the host's."""
        if memory_bytes is None:
            memory_bytes = self.chip.memory_bytes or host_memory_bytes() // n_devices
        return replace(self.chip, memory_bytes=memory_bytes)


def host_memory_bytes() -> int:
    """Physical memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_catalog() -> Mapping[str, CatalogEntry]:
    """All chips by name: the catalogue's, and those of the folder that AUTOSHARD_MACHINES names.

    A user's file stands in for one of the catalogue that has the same name or device kind, so that
    a calibrated machine is used without being named.

    Raises:
        CatalogError: a file is malformed, two files of one folder claim one name or device kind,
            or AUTOSHARD_MACHINES is no folder.
    """
    return _load(os.environ.get(USER_FOLDER, ""))


@lru_cache(maxsize=8)
def _load(user_folder: str) -> Mapping[str, CatalogEntry]:
    shipped = _read_folder(resources.files("autoshard.machine") / "catalog")
    if not user_folder:
        return shipped
    folder = Path(user_folder)
    if not folder.is_dir():
        raise CatalogError(f"{USER_FOLDER}={user_folder}: is no folder of machine files")
    own = _read_folder(folder)
    taken = {kind for entry in own.values() for kind in entry.device_kinds}
    rest = {
        name: replace(entry, device_kinds=tuple(k for k in entry.device_kinds if k not in taken))
        for name, entry in shipped.items()
    }
    return rest | own


def _read_folder(folder: Traversable) -> dict[str, CatalogEntry]:
    entries: dict[str, CatalogEntry] = {}
    kinds: dict[str, str] = {}
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


def read_file(path: Path) -> CatalogEntry:
    """Reads a user's machine file.

    Raises:
        CatalogError: it cannot be read, or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text in UTF-8"
        raise CatalogError(f"{path}: cannot read the machine file: {reason}") from error
    return read_entry(text, path.name)


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
    unit = _values(data, "matrix_unit")
    links = _values(data, data["network"])
    # Files hold what data sheets say, which is per chip; JAX may show a chip as several devices.
    devices = links.get("cores_per_chip", 1)
    chip = Chip(
        name=data["name"],
        platform=data["platform"],
        memory_bytes=int(memory.get("bytes", 0)) // devices,
        memory_bytes_per_s=memory.get("bytes_per_s", 0.0) / devices,
        peak_flops_per_s={
            key: rate / devices for key, rate in _values(data, "peak_flops_per_s").items()
        },
        matmul_efficiency=compute["matmul_efficiency"],
        memory_efficiency=memory["efficiency"],
        op_overhead_s=compute["op_overhead_s"],
        memory_margin=memory["margin"],
        matrix_unit=MatrixUnit(_tile(unit["tile"], file), unit["units"]),
        overlap=Overlap(**_values(data, "overlap")),
    )
    topology = data.get("topology")
    entry = CatalogEntry(
        title=data["title"],
        chip=chip,
        network=_NETWORKS[data["network"]](links),
        device_kinds=tuple(data["device_kinds"]),
        chips_per_host=host.get("chips"),
        dcn_bytes_per_s_per_chip=host.get("dcn_bytes_per_s_per_chip"),
        usd_per_chip_hour=_values(data, "price").get("usd_per_chip_hour"),
        citations=_citations(data),
        unknown=unknown_numbers(data),
        dcn_latency_s=host.get("dcn_latency_s"),
        node_name=links.get("node_name", ""),
        rack_devices=links["domain_devices"] if "counted_in" in data else None,
        topology=None if topology is None else tuple(topology),
        data=data,
    )
    return replace(entry, variants={v: _variant(entry, data, v) for v in data.get("variants", {})})


def _tile(sizes: list[int], file: str) -> tuple[int, int, int]:
    if len(sizes) != 3:
        raise CatalogError(f"{file}: matrix_unit.tile must be rows, columns and depth: 3 numbers")
    rows, columns, depth = sizes
    return rows, columns, depth


def _variant(entry: CatalogEntry, data: Table, name: str) -> CatalogEntry:
    numbers = _values(data["variants"], name)
    links = _values(data, data["network"]) | numbers
    return replace(
        entry,
        title=f"{entry.title}, {numbers['node_name']}",
        network=_NETWORKS[data["network"]](links),
        # Which nodes a device stands in, it cannot say: the file's own are taken.
        device_kinds=(),
        usd_per_chip_hour=None,
        node_name=numbers["node_name"],
        variant=name,
    )


def _torus(values: Table) -> Torus | Switched:
    of_torus = {key: value for key, value in values.items() if key != "links_per_chip"}
    unknown = {"link_bytes_per_s": 0.0}
    return Torus(**unknown | of_torus | {"pod_shape": tuple(values["pod_shape"])})


def _switched(values: Table) -> Torus | Switched:
    of_network = {key: value for key, value in values.items() if key != "node_name"}
    return Switched(**{"device_bytes_per_s": 0.0} | of_network)


_NETWORKS: dict[str, Callable[[Table], Torus | Switched]] = {"torus": _torus, "switched": _switched}


def _values(data: Table, section: str) -> dict[str, Any]:
    """A section's numbers without their sources."""
    return {
        key: entry["value"] if isinstance(entry, dict) else entry
        for key, entry in data.get(section, {}).items()
    }


def _citations(data: Table) -> dict[str, Citation]:
    sources = {name: Citation(**citation) for name, citation in data["sources"].items()}
    of_variants = {f"variants.{name}": v for name, v in data.get("variants", {}).items()}
    sections = {name: v for name, v in data.items() if name not in ("sources", "variants")}
    return {
        f"{section}.{key}": sources[entry["source"]]
        for section, entries in (sections | of_variants).items()
        if isinstance(entries, dict)
        for key, entry in entries.items()
        if isinstance(entry, dict)
    }
