"""Machines cut into equal machines."""

from __future__ import annotations

import pytest

from autoshard.machine import parse_machine
from autoshard.machine.parts import counts, equal_parts


@pytest.mark.parametrize(
    ("whole", "count", "part"),
    [
        ("v5e:2x4", 2, "v5e:2x2"),
        ("v5e:4x4", 4, "v5e:2x2"),
        ("v5e:16x16", 2, "v5e:8x16"),
        ("cpu:8", 4, "cpu:2"),
        ("8xh100", 2, "4xh100"),
        ("4x8xh100", 2, "2x8xh100"),
        ("4x8xh100", 4, "8xh100"),
        ("4x8xh100", 8, "4xh100"),
    ],
)
def test_parts(whole: str, count: int, part: str) -> None:
    machine = parse_machine(whole)
    parts = equal_parts(machine, count)
    assert parts is not None
    assert parts.machine.name == part
    assert parts.machine.chip == machine.chip
    assert len(parts.devices) == count
    assert sorted(d for own in parts.devices for d in own) == list(range(machine.n_devices))
    assert all(len(own) == parts.machine.n_devices for own in parts.devices)


def test_devices_of_a_part_are_neighbours() -> None:
    parts = equal_parts(parse_machine("v5e:2x4"), 2)
    assert parts is not None
    assert parts.devices == ((0, 1, 4, 5), (2, 3, 6, 7))


def test_a_cut_dimension_is_no_ring() -> None:
    """A cube of 4x4x4 has rings by itself, and has none inside a longer slice."""
    parts = equal_parts(parse_machine("v5p:4x4x8"), 2)
    assert parts is not None
    assert parts.machine.name == "v5p:2x4x8"


def test_slices_come_apart_whole() -> None:
    parts = equal_parts(parse_machine("2*v5e:4x4"), 2)
    assert parts is not None
    assert parts.machine.name == "v5e:4x4"
    assert parts.devices[1] == tuple(range(16, 32))


def test_counts() -> None:
    assert counts(parse_machine("v5e:2x4")) == [2, 4, 8]
    assert counts(parse_machine("cpu:1")) == []
    assert equal_parts(parse_machine("cpu:6"), 4) is None
