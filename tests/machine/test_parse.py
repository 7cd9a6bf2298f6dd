"""Machines from text and from what JAX says about its devices."""

from __future__ import annotations

import itertools
import os

import pytest

from autoshard.machine import MachineError, machine_for_devices, parse_machine


@pytest.mark.parametrize(
    ("text", "topology", "n_devices", "platform"),
    [
        ("v5e:2x4", (2, 4), 8, "tpu"),
        ("v5p:2x2x4", (2, 2, 4), 16, "tpu"),
        ("v5p:4x4x8", (4, 4, 8), 128, "tpu"),
        ("v6e:4x4", (4, 4), 16, "tpu"),
        ("8xh100", (8,), 8, "gpu"),
        ("16x8xh100", (16, 8), 128, "gpu"),
        ("cpu:8", (8,), 8, "cpu"),
        ("2*v5p:4x4x4", (2, 4, 4, 4), 128, "tpu"),
        ("v3:4x4", (4, 4, 2), 32, "tpu"),  # two JAX devices on a chip
        ("2*v7x:2x2x1", (2, 2, 2, 1, 2), 16, "tpu"),
        ("8xa100-80", (8,), 8, "gpu"),
        ("2x8xa100-40-p4d", (2, 8), 16, "gpu"),
        ("16x8xh100-a3-mega", (16, 8), 128, "gpu"),
        ("4xgb200-nvl72", (4, 72), 288, "gpu"),
        ("1xgb200-nvl72", (72,), 72, "gpu"),
        ("gb200-nvl72:8", (8,), 8, "gpu"),
        ("2x36xgb200-nvl72", (2, 36), 72, "gpu"),
        ("8xmi300x", (8,), 8, "gpu"),
    ],
)
def test_parses(text: str, topology: tuple[int, ...], n_devices: int, platform: str) -> None:
    machine = parse_machine(text)
    assert machine.name == text
    assert machine.topology == topology
    assert machine.n_devices == n_devices
    assert machine.chip.platform == platform
    assert 0.85 * machine.memory_bytes < machine.default_memory_limit_bytes < machine.memory_bytes


def test_spelling_is_forgiving() -> None:
    assert parse_machine(" V5E:2x4 ").name == "v5e:2x4"
    assert parse_machine("1x8xh100").name == "8xh100"
    assert parse_machine("h100:8") == parse_machine("8xh100")


def test_cpu_devices_share_the_memory_of_the_host() -> None:
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert parse_machine("cpu:8").memory_bytes == host_bytes // 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "v5x:2x4",
            r"unknown chip 'v5x'; did you mean 'v[0-9][epx]?'\? Known chips: a100-40, .*cpu, .*v5e",
        ),
        ("8xq100", "unknown chip 'q100'; did you mean '[hv]100'"),
        ("nonsense:2x4", r"unknown chip 'nonsense'\? Known chips: a100-40"),
        ("8xa100", "unknown chip 'a100'; did you mean 'a100-[48]0'"),
        ("8xh100-p7", "h100 has no variant 'p7'; known: h100-a3-high, h100-a3-mega, h100-p5"),
        ("2*8xh100", r"cannot read machine '2\*8xh100'"),
        ("2*h100:8", '2.h100 has slices, which only TPUs have: write "2x8xh100"'),
        ("0*v5p:4x4x4", "at least one slice"),
        ("2*v3:2x2", r"without host\.dcn_bytes_per_s_per_chip and host\.dcn_latency_s"),
        ("v2:2x2", r"v2 \(TPU v2\) cannot be used without torus\.link_bytes_per_s, which no"),
        ("5x73xgb200-nvl72", "73 gb200-nvl72 in one node is more than the 72 that NVLink joins"),
        ("v7x:4x4", 'v7x:4x4 has 2 dimensions, but v7x slices have 3: .*"v7x:2x2x4"'),
        ("eight gpus", "cannot read machine 'eight gpus': write \"v5e:2x4\""),
        ("h100", "cannot read machine 'h100'"),
        ("v5e:2x", "'2x' is not a topology"),
        ("v5e:axb", "'axb' is not a topology"),
        ("v5e:0x4", "'0x4' is not a topology"),
        ("v5e:", "'' is not a topology"),
        ("v5e:2x2x2", 'v5e:2x2x2 has 3 dimensions, but v5e slices have 2: .*"v5e:2x4"'),
        ("v5p:4x4", 'v5p:4x4 has 2 dimensions, but v5p slices have 3: .*"v5p:2x2x4"'),
        ("v5e:16x32", r"v5e:16x32 \(512 chips\) is more .* pod is 16x16 .* 256 chips"),
        ("v5e:2x32", r"v5e:2x32 \(64 chips\) is more than a slice can be"),
        ("v5p:16x20x28", r"8960 chips\) is more .* largest slice has 6144 chips"),
        ("16xh100", '16 h100 in one node is more than the 8 that NVLink joins; write "2x8xh100"'),
        ("2x2x8xh100", "2x2x8 h100 has 3 dimensions, at most 2"),
        ("cpu:2x4", "at most 1 can be: write cpu:8"),
    ],
)
def test_errors_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        parse_machine(text)


def grid(*sizes: int, at: tuple[int, ...] = (0, 0, 0)) -> list[tuple[int, ...]]:
    cells = itertools.product(*map(range, sizes))
    return [tuple(c + a for c, a in zip(cell, at, strict=True)) for cell in cells]


@pytest.mark.parametrize(
    ("platform", "kind", "n", "coords", "name"),
    [
        ("tpu", "TPU v5 lite", 8, grid(2, 4, 1), "v5e:2x4"),
        ("tpu", "TPU v5 lite", 4, grid(2, 2, 1, at=(2, 4, 0)), "v5e:2x2"),
        ("tpu", "TPU v5", 16, grid(2, 2, 4)[::-1], "v5p:2x2x4"),
        ("tpu", "TPU v6 lite", 1, None, "v6e:1x1"),
        ("gpu", "NVIDIA H100 80GB HBM3", 4, None, "4xh100"),
        ("gpu", "NVIDIA H100 80GB HBM3", 32, None, "4x8xh100"),
        ("cpu", "cpu", 8, None, "cpu:8"),
        ("tpu", "TPU7x", 8, grid(2, 2, 1) * 2, "v7x:2x2x1"),
        ("gpu", "NVIDIA GB200", 144, None, "2xgb200-nvl72"),
        ("gpu", "NVIDIA GB200", 4, None, "gb200-nvl72:4"),
        ("gpu", "AMD Instinct MI300X", 16, None, "2x8xmi300x"),
    ],
)
def test_devices(
    platform: str, kind: str, n: int, coords: list[tuple[int, ...]] | None, name: str
) -> None:
    assert machine_for_devices(platform, kind, n, coords, None).name == name


def test_memory_asked_of_the_device_wins() -> None:
    machine = machine_for_devices("tpu", "TPU v5 lite", 8, grid(2, 4, 1), 15 * 2**30)
    assert machine.memory_bytes == 15 * 2**30


@pytest.mark.parametrize(
    ("kind", "n", "coords", "message"),
    [
        ("TPU v99", 4, None, "'TPU v99' are not in the catalogue.*'cpu'.*Name the nearest"),
        ("TPU v5 lite", 8, None, "8 devices of kind 'TPU v5 lite' without coordinates"),
        ("TPU v5 lite", 3, grid(2, 2, 1)[:3], "3 different .* box of 2x2x1 = 4 chips"),
        ("TPU v5 lite", 2, [(0, 0, 0), (0, 0, 0)], "1 different coordinates"),
        ("TPU v5 lite", 8, grid(2, 2, 2), "expected 2 dimensions"),
        ("NVIDIA H100 80GB HBM3", 12, None, "do not fill nodes of 8; use a multiple of 8"),
        ("cpu", 0, None, "at least one device, got 0"),
        ("TPU7x", 4, grid(2, 2, 1), "each 2 times: a chip is 2 devices"),
    ],
)
def test_device_errors(
    kind: str, n: int, coords: list[tuple[int, ...]] | None, message: str
) -> None:
    with pytest.raises(MachineError, match=message):
        machine_for_devices("tpu", kind, n, coords)


def test_slices_are_told_apart_by_their_index() -> None:
    coords = grid(2, 4, 1) * 2
    slices = [0] * 8 + [1] * 8
    machine = machine_for_devices("tpu", "TPU v5 lite", 16, coords, None, slices)
    assert machine.name == "2*v5e:2x4"
    few = coords[:8] + grid(1, 4, 1)
    with pytest.raises(MachineError, match=r"2 slices .* have shapes 1x4 and 2x4; .* alike"):
        machine_for_devices("tpu", "TPU v5 lite", 12, few, None, slices[:12])


def test_a_chip_that_jax_shows_as_two_devices_is_halved() -> None:
    chip = parse_machine("v7x:2x2x1").chip
    assert chip.memory_bytes == 96 * 2**30
    assert chip.memory_bytes_per_s == 3690e9
    assert chip.peak_flops_per_s["bf16"] == 1153.5e12


def test_the_name_of_a_machine_is_read_back() -> None:
    for text in ("2*v7x:4x4x4", "4xgb200-nvl72", "gb200-nvl72:8", "2x4xgb200-nvl72", "4x8xh100-p5"):
        machine = parse_machine(text)
        assert parse_machine(machine.name) == machine


def test_variants_differ_in_their_network_only() -> None:
    dgx, mega = parse_machine("2x8xh100"), parse_machine("2x8xh100-a3-mega")
    assert dgx.chip == mega.chip
    assert dgx.network.node_bytes_per_s == 2 * mega.network.node_bytes_per_s
