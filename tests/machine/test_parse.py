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
        ("v5x:2x4", r"unknown chip 'v5x'; did you mean 'v5[ep]'\? Known chips: cpu, h100, v5e"),
        ("8xq100", "unknown chip 'q100'; did you mean 'h100'"),
        ("nonsense:2x4", r"unknown chip 'nonsense'\? Known chips: cpu"),
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
    ],
)
def test_device_errors(
    kind: str, n: int, coords: list[tuple[int, ...]] | None, message: str
) -> None:
    with pytest.raises(MachineError, match=message):
        machine_for_devices("tpu", kind, n, coords)
