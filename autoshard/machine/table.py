"""The catalogue as a table: what people compare chips by, with what is not known left open."""

from __future__ import annotations

from autoshard.machine.catalogue import CatalogEntry, load_catalog
from autoshard.machine.network import Switched, Torus

HEADERS = (
    "chip",
    "name",
    "write",
    "memory",
    "memory rate",
    "peak bf16",
    "reached",
    "links, one way",
    "largest",
    "beyond",
)
UNKNOWN = "?"


def rows() -> tuple[tuple[str, ...], ...]:
    """One row a chip, in the order of `HEADERS`; TPUs first, then GPUs, then the rest."""
    order = {"tpu": 0, "gpu": 1}
    entries = sorted(
        load_catalog().values(), key=lambda e: (order.get(e.chip.platform, 2), e.chip.name)
    )
    return tuple(_row(entry) for entry in entries)


def markdown() -> str:
    """The table for `docs/machines.md`."""
    lines = [HEADERS, ("---",) * len(HEADERS), *rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _row(entry: CatalogEntry) -> tuple[str, ...]:
    chip, devices = entry.chip, entry.devices_per_chip
    peaks = chip.peak_flops_per_s
    rate = next((f"{peaks[k] * devices / 1e12:,.4g} TF" for k in ("bf16",) if k in peaks), "")
    if not rate:
        key = max(peaks, key=lambda k: peaks[k])
        rate = f"{peaks[key] * devices / 1e12:,.4g} TF ({key})"
    name = f"{entry.title}; {devices} JAX devices a chip" if devices > 1 else entry.title
    return (
        f"`{chip.name}`",
        name,
        f"`{_example(entry)}`",
        f"{chip.memory_bytes * devices / 1e9:.4g} GB" if chip.memory_bytes else "of the host",
        f"{_known(chip.memory_bytes_per_s * devices)} GB/s",
        rate,
        f"{chip.matmul_efficiency:.0%}",
        *_network(entry),
    )


def _network(entry: CatalogEntry) -> tuple[str, str, str]:
    network = entry.network
    if isinstance(network, Torus):
        links = 2 * network.rank
        return (
            f"{links} x {_known(network.link_bytes_per_s)} GB/s",
            f"{'x'.join(map(str, network.pod_shape))}, {network.max_chips:,} chips",
            _beyond([("DCN", entry.dcn_bytes_per_s_per_chip)], "a chip"),
        )
    of_ring = network.inside_bytes_per_s(network.domain_devices)
    reached = f" ({of_ring / 1e9:.4g} in rings)" if of_ring < network.device_bytes_per_s else ""
    return (
        f"{network.link_name} {_known(network.device_bytes_per_s)} GB/s{reached}",
        f"{network.domain_devices} a node",
        _nodes(entry, network),
    )


def _nodes(entry: CatalogEntry, network: Switched) -> str:
    kinds = [(entry.node_name, network.node_bytes_per_s)]
    for name, variant in entry.variants.items():
        assert isinstance(variant.network, Switched)
        kinds.append((f"`-{name}`: {variant.node_name}", variant.network.node_bytes_per_s))
    return _beyond(kinds, "a node")


def _beyond(kinds: list[tuple[str, float | None]], of_what: str) -> str:
    known = [f"{name} {rate / 1e9:.4g} GB/s {of_what}" for name, rate in kinds if rate is not None]
    return "; ".join(known) or UNKNOWN


def _example(entry: CatalogEntry) -> str:
    if isinstance(entry.network, Torus):
        return f"{entry.name}:{'x'.join(['4'] * entry.network.rank)}"
    if entry.chip.platform == "cpu":
        return f"{entry.name}:8"
    return f"4x{entry.name}" if entry.rack_devices else f"4x8x{entry.name}"


def _known(rate: float) -> str:
    return f"{rate / 1e9:,.4g}" if rate else UNKNOWN
