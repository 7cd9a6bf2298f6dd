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
    """One number of a section.

    Attributes:
        kind: its type.
        needed: whether a file must have it.
        costed: whether nothing can be costed without it. A chip whose maker never published it has
            a file all the same, which says what is known; using the chip is refused.
    """

    kind: type
    needed: bool = True
    costed: bool = False


_NEEDED = Key(float)
_OPTIONAL = Key(float, needed=False)
_COSTED = Key(float, needed=False, costed=True)
_COUNT = Key(int)
_TEXT = Key(str, needed=False)

_COMMON: dict[str, dict[str, Key]] = {
    "memory": {
        "bytes": _OPTIONAL,  # needed unless platform is cpu: checked apart
        "bytes_per_s": _COSTED,
        "efficiency": _NEEDED,
        "margin": _NEEDED,
    },
    "peak_flops_per_s": {key: _OPTIONAL for key in sorted(RATE_KEYS)},
    "compute": {"matmul_efficiency": _NEEDED, "op_overhead_s": _NEEDED},
    "matrix_unit": {"tile": Key(list), "units": _COUNT},
    "overlap": {"share": _NEEDED, "slowdown": _NEEDED, "windowed": _OPTIONAL},
    "host": {
        "chips": Key(int, needed=False),
        "dcn_bytes_per_s_per_chip": _OPTIONAL,
        "dcn_latency_s": _OPTIONAL,
    },
    "price": {"usd_per_chip_hour": _OPTIONAL},
}
_NETWORKS: dict[str, dict[str, Key]] = {
    "torus": {
        "pod_shape": Key(list),
        "max_chips": _COUNT,
        "links_per_chip": _COUNT,
        "link_bytes_per_s": _COSTED,
        "hop_latency_s": _NEEDED,
        "base_latency_s": _OPTIONAL,
        "wrap_multiple": _COUNT,
        "wrap_whole_blocks": Key(bool),
        "cores_per_chip": Key(int, needed=False),
        "core_bytes_per_s": _OPTIONAL,
    },
    "switched": {
        "link_name": Key(str),
        "domain_devices": _COUNT,
        "device_bytes_per_s": _COSTED,
        "base_latency_s": _NEEDED,
        "hop_latency_s": _NEEDED,
        "efficiency": _OPTIONAL,
        "pair_bytes_per_s": _OPTIONAL,
        "reduce_bytes_per_s": _OPTIONAL,
        "reduce_latency_s": _OPTIONAL,
        "node_name": _TEXT,
        "node_bytes_per_s": _OPTIONAL,
        "node_hop_latency_s": _OPTIONAL,
        "tree_hop_latency_s": _OPTIONAL,
        "node_tree_hop_latency_s": _OPTIONAL,
    },
}
_TOP = frozenset(
    {
        "name",
        "title",
        "platform",
        "network",
        "device_kinds",
        "sources",
        "counted_in",  # "racks": people write 4xgb200-nvl72 for four racks, not for four devices
        "topology",  # of a machine that a person describes in a file of its own
        "variants",
    }
)
# A variant, "h100-p5", is a chip in another maker's nodes: it replaces numbers of the network.
_VARIANT_KEYS = {key: form for key, form in _NETWORKS["switched"].items() if "node" in key}


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

    counted = data.get("counted_in", "racks")
    _expect(counted == "racks", file, "counted_in", 'must be "racks" or left out')
    racks = "counted_in" not in data or data["network"] == "switched"
    _expect(racks, file, "counted_in", "is for switched networks only")
    if "topology" in data:
        _expect(
            _is_sizes(data["topology"]), file, "topology", "must be a list of positive integers"
        )

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

    variants = data.get("variants", {})
    _expect(isinstance(variants, dict), file, "variants", "must be a table of tables")
    _expect(not variants or data["network"] == "switched", file, "variants", "is for switched only")
    for name, numbers in variants.items():
        needed = _VARIANT_KEYS | {"node_name": Key(str)}
        _check_section(f"variants.{name}", needed, numbers, data["sources"], file)

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
        _expect(_is_sizes(value), file, path, "must be a list of positive integers")
    elif form.kind is int:
        _expect(type(value) is int and value > 0, file, path, "must be a positive integer")
    else:
        number = type(value) in (int, float) and value >= 0
        _expect(number, file, path, "must be a number, not negative")


def _is_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(size) is int and size > 0 for size in value)
    )


def unknown_numbers(data: Table) -> tuple[str, ...]:
    """Numbers without which nothing can be costed, and which a checked file leaves out."""
    sections = _COMMON | {data["network"]: _NETWORKS[data["network"]]}
    return tuple(
        f"{name}.{key}"
        for name, keys in sections.items()
        for key, form in keys.items()
        if form.costed and key not in data.get(name, {})
    )


def _expect(holds: bool, file: str, key: str, complaint: str) -> None:
    if not holds:
        raise CatalogError(f"{file}: {key} {complaint}")
