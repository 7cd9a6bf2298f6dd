"""Collective times: formulas, limits and relations between them."""

from __future__ import annotations

import numpy as np
import pytest

from autoshard.cost.collectives import collective_time_s
from autoshard.machine import MeshAxis, mesh_from_sizes, parse_machine

KINDS = ["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute"]
AXIS = MeshAxis("data", 4, bytes_per_s=100e9, latency_s=1e-6)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("all-gather", 0.75 * 8e9 / 100e9 + 3e-6),
        ("reduce-scatter", 0.75 * 8e9 / 100e9 + 3e-6),
        ("all-reduce", 2 * (0.75 * 8e9 / 100e9 + 3e-6)),
        ("all-to-all", 0.75 * 8e9 / 100e9 + 3e-6),  # a switch unless the axis says otherwise
        ("permute", 8e9 / 100e9 + 1e-6),
    ],
)
def test_formulas(kind: str, seconds: float) -> None:
    assert collective_time_s(kind, AXIS, 8e9) == pytest.approx(seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_an_axis_of_size_one_costs_nothing(kind: str) -> None:
    axis = MeshAxis("data", 1, 100e9, 1e-6)
    assert collective_time_s(kind, axis, 1e9) == 0.0
    np.testing.assert_array_equal(collective_time_s(kind, axis, np.array([1e9, 2e9])), [0.0, 0.0])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_agree_with_numbers(kind: str) -> None:
    axis = mesh_from_sizes(parse_machine("v5e:2x4"), {"data": 4, "tensor": 2}).axes[0]
    sizes = np.array([[0.0, 1e3], [1e6, 1e9]])
    times = collective_time_s(kind, axis, sizes)
    assert times.shape == (2, 2)
    assert isinstance(collective_time_s(kind, axis, 1e6), float)
    for size, time in zip(sizes.ravel(), times.ravel(), strict=True):
        assert time == pytest.approx(collective_time_s(kind, axis, float(size)))


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown collective 'gossip'; known: all-gather"):
        collective_time_s("gossip", AXIS, 1.0)


def test_unknown_kind_also_on_an_axis_of_size_one() -> None:
    with pytest.raises(ValueError, match="unknown collective"):
        collective_time_s("gossip", MeshAxis("data", 1, 1.0, 0.0), 1.0)


def test_large_all_gather_on_a_wrapped_ring_is_bytes_over_both_directions() -> None:
    # The scaling book: V / W2, whatever the length of the ring, once bandwidth-bound.
    axis = mesh_from_sizes(parse_machine("v5e:16x16"), {"data": 16, "tensor": 16}).axes[0]
    assert collective_time_s("all-gather", axis, 9e9) == pytest.approx(15 / 16 * 9e9 / 90e9, 1e-3)


def test_all_to_all_on_a_ring_is_a_quarter_of_the_gather_of_the_whole_array() -> None:
    axis = mesh_from_sizes(parse_machine("v6e:16x16"), {"data": 16, "tensor": 16}).axes[0]
    whole = 1.6e12
    all_to_all = collective_time_s("all-to-all", axis, whole / 16)
    assert all_to_all == pytest.approx(whole / (4 * 180e9), rel=1e-3)


def test_permute_uses_one_link_of_a_ring() -> None:
    axis = mesh_from_sizes(parse_machine("v6e:16x16"), {"data": 16, "tensor": 16}).axes[0]
    assert collective_time_s("permute", axis, 90e9) == pytest.approx(1.0, rel=1e-3)


def test_tiny_all_gather_over_four_v5e_chips_is_near_the_published_8_us() -> None:
    axis = mesh_from_sizes(parse_machine("v5e:2x2"), {"data": 4}).axes[0]
    assert collective_time_s("all-gather", axis, 256.0) == pytest.approx(8e-6, rel=0.25)


def test_nvlink_all_to_all_sends_each_byte_once() -> None:
    # The scaling book: V (n - 1) / (n n W) with V = n local arrays.
    axis = mesh_from_sizes(parse_machine("8xh100"), {"data": 8}).axes[0]
    assert collective_time_s("all-to-all", axis, 8e9) == pytest.approx(
        7 / 8 * 8e9 / (0.822 * 450e9), rel=1e-2
    )


def test_crossing_nodes_is_slower_than_staying_inside() -> None:
    machine = parse_machine("2x8xh100")
    across = mesh_from_sizes(machine, {"data": 16}).axes[0]
    inside = mesh_from_sizes(machine, {"data": 2, "tensor": 8}).axes[1]
    for kind in KINDS:
        assert collective_time_s(kind, across, 1e9) > collective_time_s(kind, inside, 1e9)


def test_the_quickest_way_to_all_reduce_is_taken_size_by_size() -> None:
    axis = MeshAxis("data", 4, 100e9, 1e-6, other_all_reduces=((50e-6, 1 / 200e9),))
    sizes = np.array([1e3, 1e9])
    ring = 2 * (0.75 * sizes / 100e9 + 3e-6)
    switch = 50e-6 + sizes / 200e9
    np.testing.assert_allclose(collective_time_s("all-reduce", axis, sizes), [ring[0], switch[1]])
    for size, time in zip(sizes, [ring[0], switch[1]], strict=True):
        assert collective_time_s("all-reduce", axis, float(size)) == pytest.approx(time)


def test_the_switch_reduces_for_eight_gpus_and_rings_do_for_two() -> None:
    # 275 GB/s of array, whatever the number of GPUs; a ring of two moves every byte once each way.
    eight, two = (
        mesh_from_sizes(parse_machine("8xh100"), {"data": n, "tensor": 8 // n}).axes[0]
        for n in (8, 2)
    )
    assert collective_time_s("all-reduce", eight, 8e9) == pytest.approx(8e9 / 275e9, rel=1e-2)
    assert collective_time_s("all-reduce", two, 8e9) == pytest.approx(8e9 / 369.9e9, rel=1e-2)


def test_trees_spare_small_all_reduces_the_length_of_the_ring() -> None:
    axis = mesh_from_sizes(parse_machine("64x8xh100"), {"data": 512}).axes[0]
    rings = 2 * collective_time_s("all-gather", axis, 1e3)
    assert collective_time_s("all-reduce", axis, 1e3) < rings / 10
    large = 2 * collective_time_s("all-gather", axis, 1e12)
    assert collective_time_s("all-reduce", axis, 1e12) == pytest.approx(large, rel=1e-2)


def test_devices_of_a_node_share_what_leaves_it() -> None:
    # The scaling book: the term across nodes is divided by the devices of a node.
    machine = parse_machine("16x8xa100-80")
    one = mesh_from_sizes(machine, {"data": 16, "tensor": 8}).axes[0]
    assert collective_time_s("all-gather", one, 8e9) == pytest.approx(
        15 / 16 * 8e9 / (200e9 / 8), rel=1e-2
    )
    both = mesh_from_sizes(machine, {"data": 128}).axes[0]
    assert collective_time_s("all-gather", both, 8e9) == pytest.approx(
        127 / 128 * 8e9 / 200e9, rel=3e-2
    )


def test_across_slices_each_device_sends_its_share() -> None:
    machine = parse_machine("2*v5p:4x4x4")
    data = mesh_from_sizes(machine, {"data": 2, "tensor": 64}).axes[0]
    assert collective_time_s("all-gather", data, 8e9) == pytest.approx(4e9 / 6.25e9, rel=1e-3)
    assert collective_time_s("all-to-all", data, 8e9) == pytest.approx(4e9 / 6.25e9, rel=1e-3)
    assert collective_time_s("permute", data, 8e9) == pytest.approx(8e9 / 6.25e9, rel=1e-3)
