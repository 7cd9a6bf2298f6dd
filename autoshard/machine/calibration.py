"""A machine file from measurements: fits the numbers that a plan's costs are made of.

What is fitted, and from what:

* matmul rate of each dtype: the best of all sizes. Where the catalogue cites a peak, the peak stays
  and the efficiency becomes measured / peak; a nominal peak is replaced.
* memory bandwidth: the best copy, likewise.
* link rate, base and hop latency: every collective's time is linear in (base, hop, 1 / rate), with
  coefficients that the network's own formulas give (`torus.py`, `switched.py`). Non-negative least
  squares of relative errors, so that small messages count as much as large ones.
* in-switch all-reduces, where the chip has them: rate of the largest one.

What lies between nodes or slices is kept as the catalogue has it. Measuring needs JAX and is done
in `autoshard/execute/calibrate.py`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autoshard.machine.catalogue import CatalogEntry, load_catalog, read_entry
from autoshard.machine.dtypes import rate_keys
from autoshard.machine.errors import MachineError
from autoshard.machine.meshes import mesh_from_sizes
from autoshard.machine.model import Machine, MeshAxis
from autoshard.machine.network import Network, Slices, Switched, Torus

_OWN_KEYS = {"float32": "f32", "bfloat16": "bf16", "float16": "fp16"}
# all-to-all and permute follow from the same numbers; they are compared, not fitted.
_FITTED = ("all-gather", "reduce-scatter", "all-reduce")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MatmulSample:
    """A square matmul on every device at once."""

    dtype: str
    size: int
    seconds: float

    @property
    def flops_per_s(self) -> float:
        return 2 * self.size**3 / self.seconds


@dataclass(frozen=True, slots=True)
class CollectiveSample:
    """One collective along one axis of a mesh; `size_bytes` as in `collective_time_s`."""

    kind: str
    mesh: Mapping[str, int]
    axis: str
    size_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured, on which devices.

    Attributes:
        machine: the devices, as the catalogue knows them.
        matmuls, collectives: as said there.
        copies: (bytes read and written by each device, seconds).
        op_overhead_s: to start one small op.
        date: ISO.
        by: software and versions.
    """

    machine: Machine
    matmuls: tuple[MatmulSample, ...]
    copies: tuple[tuple[float, float], ...]
    op_overhead_s: float
    collectives: tuple[CollectiveSample, ...]
    date: str
    by: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the measurements say.

    Attributes:
        measurements: what was fitted.
        rates: best FLOP/s per dtype.
        memory_bytes_per_s: best copy.
        link_bytes_per_s, base_latency_s, hop_latency_s: of the network; None: one device only.
        reduce_bytes_per_s: of in-switch all-reduces; None: the chip has none.
        ratios: predicted / measured of every collective, in the order of the measurements.
    """

    measurements: Measurements
    rates: Mapping[str, float]
    memory_bytes_per_s: float
    link_bytes_per_s: float | None
    base_latency_s: float | None
    hop_latency_s: float | None
    reduce_bytes_per_s: float | None
    ratios: tuple[float, ...]


def fit(measurements: Measurements) -> Calibration:
    """Fits a machine's numbers to what was measured on it.

    Raises:
        MachineError: nothing to fit, or devices in several slices.
    """
    network = measurements.machine.network
    if isinstance(network, Slices):
        raise MachineError("calibrate one slice: what lies between slices is not measured")
    if not measurements.matmuls or not measurements.copies:
        raise MachineError("a calibration needs at least one matmul and one copy")
    rates: dict[str, float] = {}
    for sample in measurements.matmuls:
        rates[sample.dtype] = max(rates.get(sample.dtype, 0.0), sample.flops_per_s)
    link, base_s, hop_s = _fit_network(measurements, network)
    reduce_rate = _fit_reduce(measurements, network)
    fitted = Calibration(
        measurements,
        rates,
        max(size / seconds for size, seconds in measurements.copies),
        link,
        base_s,
        hop_s,
        reduce_rate,
        (),
    )
    return replace(fitted, ratios=_ratios(fitted, network))


def _fit_network(
    measurements: Measurements, network: Torus | Switched
) -> tuple[float | None, float | None, float | None]:
    in_switch = isinstance(network, Switched) and network.reduce_bytes_per_s is not None
    samples = [
        sample
        for sample in measurements.collectives
        if sample.kind in _FITTED
        and not (in_switch and sample.kind == "all-reduce")
        and _inside(measurements.machine, sample)
    ]
    if not samples:
        return None, None, None
    # Times are linear in these three: what one second, and one byte/s, make of each sample.
    machine = measurements.machine
    base, hop = _with_numbers(network, 1.0, 1.0, 0.0), _with_numbers(network, 1.0, 0.0, 1.0)
    link = _with_numbers(network, 1.0, 0.0, 0.0)
    coefficients = np.array(
        [
            [
                _time_s(machine, base, replace(sample, size_bytes=0.0)),
                _time_s(machine, hop, replace(sample, size_bytes=0.0)),
                _time_s(machine, link, sample),
            ]
            for sample in samples
        ]
    )
    seconds = np.array([sample.seconds for sample in samples])
    base_s, hop_s, s_per_byte = _non_negative(coefficients / seconds[:, None])
    if s_per_byte <= 0:
        raise MachineError(
            "no link rate fits the collectives measured: larger messages took no longer; "
            "measure larger ones, on devices that do nothing else"
        )
    return 1 / s_per_byte, base_s, hop_s


def _fit_reduce(measurements: Measurements, network: Torus | Switched) -> float | None:
    if not isinstance(network, Switched) or network.reduce_bytes_per_s is None:
        return None
    large = max(
        (s for s in measurements.collectives if s.kind == "all-reduce"),
        key=lambda sample: (sample.size_bytes, -sample.seconds),
        default=None,
    )
    if large is None:
        return None
    return large.size_bytes / max(large.seconds - network.reduce_latency_s, large.seconds / 2)


def _inside(machine: Machine, sample: CollectiveSample) -> bool:
    return not _axis(machine, sample).link.startswith("network")


def _axis(machine: Machine, sample: CollectiveSample) -> MeshAxis:
    mesh = mesh_from_sizes(machine, sample.mesh)
    return next(axis for axis in mesh.axes if axis.name == sample.axis)


def _with_numbers(network: Torus | Switched, rate: float, base_s: float, hop_s: float) -> Network:
    if isinstance(network, Torus):
        return replace(
            network,
            link_bytes_per_s=rate,
            core_bytes_per_s=None,
            base_latency_s=base_s,
            hop_latency_s=hop_s,
        )
    return replace(
        network,
        device_bytes_per_s=rate,
        efficiency=1.0,
        pair_bytes_per_s=_pair_rate(network, rate),
        reduce_bytes_per_s=None,
        base_latency_s=base_s,
        hop_latency_s=hop_s,
        tree_hop_latency_s=None,
        node_tree_hop_latency_s=None,
    )


def _pair_rate(network: Switched, rate: float) -> float | None:
    """Links of pairs are scaled with the device's: a device has as many of them as before."""
    if network.pair_bytes_per_s is None:
        return None
    return rate * network.pair_bytes_per_s / network.device_bytes_per_s


def _time_s(machine: Machine, network: Network, sample: CollectiveSample) -> float:
    axis = _axis(replace(machine, network=network), sample)
    steps = axis.size - 1
    # As in `autoshard.cost.collectives`, which stands above this room.
    passes = 2 if sample.kind == "all-reduce" else 1
    transfer_s = sample.size_bytes * steps / axis.size / axis.bytes_per_s
    return passes * (transfer_s + steps * axis.latency_s)


def _non_negative(rows: Floats) -> tuple[float, float, float]:
    """`x >= 0` with `rows @ x` nearest to ones: the best of the least squares over all subsets."""
    best, best_error = np.zeros(3), math.inf
    for count in (1, 2, 3):
        for some in itertools.combinations(range(3), count):
            part, *_ = np.linalg.lstsq(rows[:, some], np.ones(len(rows)), rcond=None)
            if (part < 0).any():
                continue
            x = np.zeros(3)
            x[list(some)] = part
            error = float(((rows @ x - 1) ** 2).sum())
            if error < best_error:
                best, best_error = x, error
    base_s, hop_s, s_per_byte = best.tolist()
    return base_s, hop_s, s_per_byte


def _ratios(fitted: Calibration, network: Torus | Switched) -> tuple[float, ...]:
    link, base_s, hop_s = fitted.link_bytes_per_s, fitted.base_latency_s, fitted.hop_latency_s
    if link is None or base_s is None or hop_s is None:
        return ()
    machine = fitted.measurements.machine
    calibrated = _with_numbers(network, link, base_s, hop_s)
    return tuple(
        _time_s(machine, calibrated, sample) / sample.seconds
        if sample.kind in _FITTED
        else math.nan
        for sample in fitted.measurements.collectives
    )


def machine_toml(calibration: Calibration, entry: CatalogEntry, name: str | None = None) -> str:
    """The machine file that says so; `parse_machine` reads it.

    Args:
        calibration: what was fitted.
        entry: the catalogue's entry of the devices, whose other numbers are kept.
        name: of the chip; None: the same, so that the file stands in for the catalogue's when its
            folder is named in AUTOSHARD_MACHINES.
    """
    measured = calibration.measurements
    data: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in entry.data.items()
    }
    number = {"source": "measured"}
    _set_compute(data, calibration, entry, number)
    _set_network(data, calibration, number)
    # The devices' own topology, without the dimensions that the chip itself adds.
    topology = measured.machine.topology
    if isinstance(measured.machine.network, Torus):
        topology = topology[: measured.machine.network.rank]
    data |= {"name": name or entry.chip.name, "topology": list(topology)}
    data["title"] = f"{entry.title}, measured"
    data["sources"]["measured"] = {
        "title": f"autoshard calibrate on {measured.machine.name}, {measured.by}",
        "url": "",
        "date": measured.date,
    }
    return "\n".join([*_comments(calibration), "", *_dump(data), ""])


def unlisted_gpu(device_kind: str, memory_bytes: int) -> CatalogEntry:
    """A file for GPUs that the catalogue does not list, to be filled by measurements.

    How they are joined is not known: one switch is taken, as a ring among all of them sees it.
    """
    cpu = load_catalog()["cpu"].data
    data = {key: dict(v) if isinstance(v, Mapping) else v for key, v in cpu.items()}
    name = re.sub("[^a-z0-9]+", "-", device_kind.lower()).strip("-")
    data |= {"name": name, "title": device_kind, "platform": "gpu", "device_kinds": [device_kind]}
    data["memory"]["bytes"] = {"value": memory_bytes, "source": "device"}
    data["sources"]["device"] = {"title": "what the device says", "url": "", "date": "2026-01"}
    data["switched"]["link_name"] = "GPU links"
    return read_entry("\n".join(_dump(data)), f"{name}.toml")


def _set_compute(
    data: dict[str, Any], calibration: Calibration, entry: CatalogEntry, number: dict[str, str]
) -> None:
    def nominal(key: str) -> bool:
        return key not in entry.citations or not entry.citations[key].url

    devices = entry.devices_per_chip  # a file's numbers are of a whole chip
    peaks, efficiencies = data["peak_flops_per_s"], {}
    for dtype, rate in calibration.rates.items():
        key = next((k for k in rate_keys(dtype) if k in peaks), _OWN_KEYS[dtype])
        if nominal(f"peak_flops_per_s.{key}"):
            peaks[_OWN_KEYS[dtype]] = {"value": rate * devices, **number}
            efficiencies[dtype] = 1.0
        else:
            efficiencies[dtype] = rate * devices / peaks[key]["value"]
    # One efficiency for all dtypes: the one that training mostly uses.
    efficiency = efficiencies.get("bfloat16", max(efficiencies.values()))
    data["compute"]["matmul_efficiency"] = {"value": efficiency, **number}
    data["compute"]["op_overhead_s"] = {
        "value": calibration.measurements.op_overhead_s,
        **number,
    }
    memory, reached = data["memory"], calibration.memory_bytes_per_s * devices
    if nominal("memory.bytes_per_s"):
        memory["bytes_per_s"] = {"value": reached, **number}
        memory["efficiency"] = {"value": 1.0, **number}
    else:
        efficiency = reached / memory["bytes_per_s"]["value"]
        memory["efficiency"] = {"value": efficiency, **number}


def _set_network(data: dict[str, Any], calibration: Calibration, number: dict[str, str]) -> None:
    if calibration.link_bytes_per_s is None:
        return
    links = data[data["network"]]
    torus = data["network"] == "torus"
    links["link_bytes_per_s" if torus else "device_bytes_per_s"] = {
        "value": calibration.link_bytes_per_s,
        **number,
    }
    links["base_latency_s"] = {"value": calibration.base_latency_s, **number}
    links["hop_latency_s"] = {"value": calibration.hop_latency_s, **number}
    for replaced in ("efficiency", "core_bytes_per_s"):
        links.pop(replaced, None)
    network = calibration.measurements.machine.network
    if isinstance(network, Switched) and network.pair_bytes_per_s is not None:
        pair = _pair_rate(network, calibration.link_bytes_per_s)
        links["pair_bytes_per_s"] = {"value": pair, **number}
    if calibration.reduce_bytes_per_s is not None:
        links["reduce_bytes_per_s"] = {"value": calibration.reduce_bytes_per_s, **number}


def _comments(calibration: Calibration) -> Sequence[str]:
    measured = calibration.measurements
    lines = [
        f"# Measured on {measured.machine.name}, {measured.date}, {measured.by}.",
        "# All devices worked at once. Seconds are the best of several runs.",
    ]
    for sample in measured.matmuls:
        rate = sample.flops_per_s / 1e12
        lines.append(
            f"# matmul {sample.dtype} {sample.size}: {sample.seconds:.3e} s, {rate:.4g} TFLOP/s"
        )
    for size, seconds in measured.copies:
        lines.append(f"# copy {size:.3g} bytes: {seconds:.3e} s, {size / seconds / 1e9:.4g} GB/s")
    ratios = calibration.ratios or (math.nan,) * len(measured.collectives)
    for collective, ratio in zip(measured.collectives, ratios, strict=True):
        mesh = " x ".join(f"{name} {size}" for name, size in collective.mesh.items())
        fitted = "" if math.isnan(ratio) else f", fitted {ratio:.2f} of it"
        lines.append(
            f"# {collective.kind} over {collective.axis} of {mesh}, "
            f"{collective.size_bytes:.3g} bytes: {collective.seconds:.3e} s{fitted}"
        )
    return lines


def _dump(data: Mapping[str, Any]) -> Sequence[str]:
    """TOML of a catalogue file: plain keys first, then one table a section."""
    tables = {key: value for key, value in data.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if key not in tables]
    nested = {f"variants.{name}": value for name, value in tables.pop("variants", {}).items()}
    for name, table in (tables | nested).items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value) if isinstance(value, int) else f"{value:.6g}"
