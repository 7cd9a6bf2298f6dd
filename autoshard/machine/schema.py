"""The form of a catalogue file: sections, keys, types, and which of them must be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoshard.machine.dtypes import RATE_KEYS
from autoshard.machine.errors import CatalogError

Table = Mapping[str, Any]

_PLATFORMS = ("cpu", "gpu", "tpu")
_CITATION_KEYS = frozenset({"title", "url", "date"})
_NUMBER_KEYS = frozenset({"value", "source"})


@dataclass(frozen=True, slots=True)
class Key:
    """One number of a section: its type and whether a file may leave it out."""

    kind: type
    needed: bool = True


_NEEDED = Key(float)
_OPTIONAL = Key(float, needed=False)
_COUNT = Key(int)

_COMMON: dict[str, dict[str, Key]] = {
    "memory": {
        "bytes": _OPTIONAL,  # needed unless platform is cpu: checked apart
        "bytes_per_s": _NEEDED,
        "efficiency": _NEEDED,
        "margin": _NEEDED,
    },
    "peak_flops_per_s": {key: _OPTIONAL for key in sorted(RATE_KEYS)},
    "compute": {"matmul_efficiency": _NEEDED, "op_overhead_s": _NEEDED},
    "host": {"chips": Key(int, needed=False), "dcn_bytes_per_s_per_chip": _OPTIONAL},
    "price": {"usd_per_chip_hour": _OPTIONAL},
}
_NETWORKS: dict[str, dict[str, Key]] = {
    "torus": {
        "pod_shape": Key(list),
        "max_chips": _COUNT,
        "links_per_chip": _COUNT,
        "link_bytes_per_s": _NEEDED,
        "hop_latency_s": _NEEDED,
        "base_latency_s": _OPTIONAL,
        "wrap_multiple": _COUNT,
        "wrap_whole_blocks": Key(bool),
    },
    "switched": {
        "link_name": Key(str),
        "domain_devices": _COUNT,
        "device_bytes_per_s": _NEEDED,
        "base_latency_s": _NEEDED,
        "hop_latency_s": _NEEDED,
        "node_bytes_per_s": _OPTIONAL,
        "node_hop_latency_s": _OPTIONAL,
    },
}
_TOP = frozenset({"name", "title", "platform", "network", "device_kinds", "sources"})


def check(data: Table, file: str) -> None:
    """Checks one parsed catalogue file.

    Raises:
        CatalogError: an unknown key, a missing one, a wrong type or a number without a source;
            the message names the file and the key.
    """
    for key in ("name", "title", "platform", "network"):
        _expect(isinstance(data.get(key), str), file, key, "must be a string")
    _expect(data["platform"] in _PLATFORMS, file, "platform", f"must be one of {_PLATFORMS}")
    _expect(
        data["network"] in _NETWORKS, file, "network", f"must be one of {tuple(sorted(_NETWORKS))}"
    )
    kinds = data.get("device_kinds")
    named = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    _expect(named, file, "device_kinds", "must be a list of jax.Device.device_kind strings")

    sources = data.get("sources")
    _expect(isinstance(sources, dict), file, "sources", "must be a table of citations")
    for name, citation in data["sources"].items():
        whole = isinstance(citation, dict) and set(citation) == _CITATION_KEYS
        _expect(whole, file, f"sources.{name}", "must have title, url and date")

    sections = _COMMON | {data["network"]: _NETWORKS[data["network"]]}
    for key in data:
        known = key in _TOP or key in sections
        _expect(known, file, key, f"is unknown; known: {', '.join(sorted(_TOP | set(sections)))}")
    for name, keys in sections.items():
        _check_section(name, keys, data.get(name, {}), data["sources"], file)

    rates = bool(data.get("peak_flops_per_s"))
    _expect(rates, file, "peak_flops_per_s", "must have a rate")
    memory = data["platform"] == "cpu" or "bytes" in data["memory"]
    _expect(memory, file, "memory.bytes", "is missing; only cpu may leave it out")


def _check_section(
    name: str, keys: Mapping[str, Key], section: Any, sources: Table, file: str
) -> None:
    _expect(isinstance(section, dict), file, name, "must be a table")
    for key in section:
        known = key in keys
        _expect(known, file, f"{name}.{key}", f"is unknown; known: {', '.join(keys)}")
    for key, form in keys.items():
        path = f"{name}.{key}"
        if key not in section:
            _expect(not form.needed, file, path, "is missing")
            continue
        _check_value(form, section[key], path, sources, file)


def _check_value(form: Key, entry: Any, path: str, sources: Table, file: str) -> None:
    if form.kind is str:
        _expect(isinstance(entry, str), file, path, "must be a string")
        return
    cited = isinstance(entry, dict) and set(entry) == _NUMBER_KEYS
    _expect(cited, file, path, "must be { value = ..., source = ... }")
    source, value = entry["source"], entry["value"]
    known = ", ".join(sources)
    _expect(
        source in sources, file, path, f"cites {source!r}, which [sources] lacks; it has {known}"
    )
    if form.kind is bool:
        _expect(isinstance(value, bool), file, path, "must be true or false")
    elif form.kind is list:
        sizes = isinstance(value, list) and all(type(v) is int and v > 0 for v in value)
        _expect(sizes and bool(value), file, path, "must be a list of positive integers")
    elif form.kind is int:
        _expect(type(value) is int and value > 0, file, path, "must be a positive integer")
    else:
        number = type(value) in (int, float) and value >= 0
        _expect(number, file, path, "must be a number, not negative")


def _expect(holds: bool, file: str, key: str, complaint: str) -> None:
    if not holds:
        raise CatalogError(f"{file}: {key} {complaint}")
