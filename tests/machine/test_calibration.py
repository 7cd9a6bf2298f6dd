"""Fits: numbers that were put in come out again, and the file says them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from autoshard.cost.collectives import collective_time_s
from autoshard.machine import Machine, MachineError, load_catalog, mesh_from_sizes, parse_machine
from autoshard.machine.calibration import (
    CollectiveSample,
    MatmulSample,
    Measurements,
    fit,
    machine_toml,
    unlisted_gpu,
)
from autoshard.machine.catalogue import read_entry

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute")
MESHES = {
    "8xh100": [{"data": 8, "tensor": 1}, {"data": 4, "tensor": 2}],
    "8xmi300x": [{"data": 8, "tensor": 1}, {"data": 4, "tensor": 2}],
    "v5e:2x4": [{"data": 8, "tensor": 1}, {"data": 4, "tensor": 2}],
    "v7x:2x2x1": [{"data": 8, "tensor": 1}, {"data": 4, "tensor": 2}],
    "cpu:8": [{"data": 8, "tensor": 1}, {"data": 2, "tensor": 4}],
}


def as_if_measured(machine: Machine, meshes: list[dict[str, int]]) -> Measurements:
    """Samples of the machine's own formulas."""
    samples = []
    for sizes, kind, size in itertools.product(meshes, KINDS, (1e4, 1e6, 1e9)):
        axis = mesh_from_sizes(machine, sizes).axes[0]
        seconds = float(collective_time_s(kind, axis, size))
        samples.append(CollectiveSample(kind, sizes, "data", size, seconds))
    matmuls = (MatmulSample("bfloat16", 1024, 1e-4), MatmulSample("bfloat16", 2048, 1e-4))
    return Measurements(machine, matmuls, ((1e9, 1e-3),), 5e-6, tuple(samples), "2026-01-02", "me")


@pytest.mark.parametrize("text", ["8xh100", "v5e:2x4", "cpu:8"])
def test_a_machine_is_found_again_from_its_own_times(text: str) -> None:
    machine = parse_machine(text)
    found = fit(as_if_measured(machine, MESHES[text]))
    network = machine.network
    if text.startswith("v"):
        assert found.link_bytes_per_s == pytest.approx(network.link_bytes_per_s, rel=1e-6)
    else:
        rate = network.device_bytes_per_s * network.efficiency
        assert found.link_bytes_per_s == pytest.approx(rate, rel=1e-6)
    assert found.base_latency_s == pytest.approx(network.base_latency_s, rel=1e-6)
    assert found.hop_latency_s == pytest.approx(network.hop_latency_s, rel=1e-6)
    fitted = [ratio for ratio in found.ratios if not math.isnan(ratio)]
    if text != "8xh100":  # its large all-reduces run in the switch
        assert fitted == pytest.approx([1.0] * len(fitted))


def test_in_switch_all_reduce_is_fitted_apart() -> None:
    found = fit(as_if_measured(parse_machine("8xh100"), MESHES["8xh100"]))
    assert found.reduce_bytes_per_s == pytest.approx(275e9, rel=1e-3)


@pytest.mark.parametrize("text", MESHES)
def test_the_file_reads_back_as_what_was_fitted(text: str, tmp_path) -> None:
    machine = parse_machine(text)
    found = fit(as_if_measured(machine, MESHES[text]))
    entry = load_catalog()[machine.chip.name]
    path = tmp_path / "mine.toml"
    path.write_text(machine_toml(found, entry, "mine"))
    mine = parse_machine(str(path))
    assert mine.topology == machine.topology
    assert mine.chip.name == "mine"
    assert mine.chip.flops_per_s("bfloat16") == pytest.approx(2 * 2048**3 / 1e-4, rel=1e-4)
    reached = mine.chip.memory_bytes_per_s * mine.chip.memory_efficiency
    assert reached == pytest.approx(1e12, rel=1e-4)
    assert mine.chip.op_overhead_s == 5e-6
    for sizes in MESHES[text]:
        before, after = (mesh_from_sizes(m, sizes).axes[0] for m in (machine, mine))
        for kind in ("all-gather", "reduce-scatter", "all-reduce"):
            times = [float(collective_time_s(kind, axis, 1e9)) for axis in (before, after)]
            assert times[1] == pytest.approx(times[0], rel=0.02)


def test_cited_peaks_stay_and_nominal_ones_go() -> None:
    h100, cpu = (as_if_measured(parse_machine(t), MESHES[t]) for t in ("8xh100", "cpu:8"))
    catalog = load_catalog()
    known = read_entry(machine_toml(fit(h100), catalog["h100"]), "h100.toml")
    assert known.chip.peak_flops_per_s["bf16"] == 989e12
    assert known.citations["peak_flops_per_s.bf16"].url
    assert known.variants.keys() == catalog["h100"].variants.keys()
    here = read_entry(machine_toml(fit(cpu), catalog["cpu"]), "cpu.toml")
    assert here.chip.peak_flops_per_s["bf16"] == pytest.approx(2 * 2048**3 / 1e-4, rel=1e-4)
    assert here.citations["peak_flops_per_s.bf16"].date == "2026-01-02"


def test_what_cannot_be_fitted() -> None:
    measured = as_if_measured(parse_machine("cpu:8"), MESHES["cpu:8"])
    with pytest.raises(MachineError, match="at least one matmul and one copy"):
        fit(replace(measured, matmuls=()))
    same = tuple(replace(sample, seconds=1e-3) for sample in measured.collectives[:1])
    flat = (*same, replace(same[0], size_bytes=1e9))
    with pytest.raises(MachineError, match="larger messages took no longer"):
        fit(replace(measured, collectives=(same[0], *[replace(f, size_bytes=0.0) for f in flat])))
    with pytest.raises(MachineError, match="calibrate one slice"):
        fit(replace(measured, machine=parse_machine("2*v5e:2x4")))


def test_one_device_has_no_links_to_fit() -> None:
    measured = replace(as_if_measured(parse_machine("cpu:8"), MESHES["cpu:8"]), collectives=())
    found = fit(replace(measured, machine=parse_machine("cpu:1")))
    assert found.link_bytes_per_s is None
    assert read_entry(machine_toml(found, load_catalog()["cpu"]), "x.toml").topology == (1,)


def test_gpus_that_no_file_lists_get_one() -> None:
    entry = unlisted_gpu("NVIDIA L4", 24_000_000_000)
    assert (entry.name, entry.chip.platform) == ("nvidia-l4", "gpu")
    assert entry.chip.memory_bytes == 24_000_000_000
    assert entry.device_kinds == ("NVIDIA L4",)
