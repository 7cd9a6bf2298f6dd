"""Collective times against what others measured, each table with the tolerance it is held to.

Ratios are predicted / measured seconds. Bus bandwidth is NCCL's: all-reduce 2 V (n - 1) / n / T,
all-gather and reduce-scatter V (n - 1) / n / T.
"""

from __future__ import annotations

import math

import pytest

from autoshard.cost.collectives import collective_time_s
from autoshard.machine import mesh_from_sizes, parse_machine

US = 1e-6
MIB = 2**20


def seconds(machine: str, kind: str, size_bytes: float) -> float:
    """Over one axis of all devices."""
    laid = mesh_from_sizes(parse_machine(machine), {"data": parse_machine(machine).n_devices})
    return float(collective_time_s(kind, laid.axes[0], size_bytes))


def bus_bytes_per_s(machine: str, kind: str, size_bytes: float) -> float:
    n = parse_machine(machine).n_devices
    passes = 2 if kind == "all-reduce" else 1
    return passes * size_bytes * (n - 1) / n / seconds(machine, kind, size_bytes)


@pytest.mark.parametrize(
    ("machine", "size_bytes", "measured_s", "tolerance"),
    [
        # NCCL all-reduce, https://github.com/VIA-Research/vTrain/tree/main/trace
        ("8xa100-80", 1 * MIB, 92.8 * US, 0.30),
        ("8xa100-80", 4 * MIB, 95.8 * US, 0.10),
        ("8xa100-80", 8 * MIB, 134 * US, 0.10),
        ("8xa100-80", 1024 * MIB, 8193 * US, 0.02),
        ("8xv100", 1 * MIB, 79.9 * US, 0.10),
        ("8xv100", 4 * MIB, 150.9 * US, 0.30),  # efficiency of its rings is not known: 1 is taken
    ],
)
def test_all_reduce_on_one_node(
    machine: str, size_bytes: float, measured_s: float, tolerance: float
) -> None:
    assert seconds(machine, "all-reduce", size_bytes) == pytest.approx(measured_s, rel=tolerance)


@pytest.mark.parametrize(
    ("machine", "gb_per_s", "tolerance"),
    [
        ("8xa100-80", 229, 0.02),
        ("8xh100", 480, 0.02),  # inside the switch; rings reach 370
        ("8xh200", 473, 0.02),
        ("8xb200", 838, 0.03),
        ("1xgb200-nvl72", 680, 0.05),  # to 850
        ("8xmi300x", 350, 0.05),
    ],
)
def test_bus_bandwidth_of_large_all_reduces(
    machine: str, gb_per_s: float, tolerance: float
) -> None:
    found = bus_bytes_per_s(machine, "all-reduce", 16e9) / 1e9
    assert found == pytest.approx(gb_per_s, rel=tolerance)


NODES = (1, 2, 4, 8, 16, 32, 64)
# 256 MB on 8 x H100 nodes with EFA, medians in GB/s of bus bandwidth:
# https://huggingface.co/spaces/nanotron/ultrascale-playbook
EFA = {
    "all-reduce": (436, 361.7, 160.1, 99.6, 84.7, 64.9, 32.9),
    "all-gather": (249.8, 184.6, 119.0, 69.0, 55.0, 28.0, 11.0),
    "reduce-scatter": (249.7, 181.6, 115.8, 68.6, 54.5, 27.9, 11.1),
}
# How far one of the seven may be off, either way, and the seven together (geometric mean).
EFA_WORST, EFA_MEAN = 1.75, 1.25


@pytest.mark.parametrize("kind", EFA)
def test_hopper_over_efa_from_one_node_to_sixty_four(kind: str) -> None:
    logs = []
    for nodes, gb_per_s in zip(NODES, EFA[kind], strict=True):
        machine = f"{nodes}x8xh100-p5" if nodes > 1 else "8xh100-p5"
        ratio = gb_per_s * 1e9 / bus_bytes_per_s(machine, kind, 256e6)
        assert 1 / EFA_WORST < ratio < EFA_WORST, (nodes, ratio)
        logs.append(abs(math.log(ratio)))
    assert sum(logs) / len(logs) < math.log(EFA_MEAN)


@pytest.mark.parametrize(
    ("gathered_bytes", "gb_per_s"),
    [
        (1572864, 71.77),
        (6291456, 129.19),
        (25165824, 161.9),
        (100663296, 174.77),
        (402653184, 178.77),
    ],
)
def test_all_gather_on_ironwood(gathered_bytes: int, gb_per_s: float) -> None:
    # 2x2x1: four chips, eight devices; the benchmark divides the result's bytes by the time.
    # https://github.com/AI-Hypercomputer/tpu-recipes/tree/main/microbenchmarks
    found = gathered_bytes / seconds("v7x:2x2x1", "all-gather", gathered_bytes) / 1e9
    assert found == pytest.approx(gb_per_s, rel=0.15)


def test_all_gather_along_four_v5e_chips() -> None:
    # "How to Scale Your Model", sharding chapter: 34 MB in 680 us along an open line, where the
    # formula says 560; a tiny one takes 8 us.
    line = mesh_from_sizes(parse_machine("v5e:4x4"), {"data": 4, "tensor": 4}).axes[0]
    assert collective_time_s("all-gather", line, 34e6) == pytest.approx(680 * US, rel=0.20)
    assert collective_time_s("all-gather", line, 256.0) == pytest.approx(8 * US, rel=0.05)
