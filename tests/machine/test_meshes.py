"""Meshes on machines: which exist, what their axes get, and where their devices stand."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoshard.machine import (
    LogicalMesh,
    Machine,
    MachineError,
    MeshAxis,
    legal_meshes,
    mesh_from_sizes,
    parse_machine,
)

V5E_BYTES_PER_S = 45e9
V5P_BYTES_PER_S = 90e9
H100_BYTES_PER_S = 0.822 * 450e9  # what rings reach of the line rate
MACHINES = [
    "v5e:2x4",
    "v5e:8x16",
    "v5p:2x2x4",
    "v5p:4x4x8",
    "v6e:4x4",
    "8xh100",
    "3x8xh100",
    "cpu:6",
    "2*v5p:2x2x4",
    "4*v5e:4x4",
    "v7x:2x2x1",
    "2*v7x:2x2x1",
    "2xgb200-nvl72",
    "8xmi300x",
]


def axis_of(text: str, name: str, **sizes: int) -> MeshAxis:
    mesh = mesh_from_sizes(parse_machine(text), sizes)
    return next(axis for axis in mesh.axes if axis.name == name)


def coords(machine: Machine, device: int) -> tuple[int, ...]:
    cells = list(itertools.product(*map(range, machine.topology)))
    return cells[device]


def lines_along(mesh: LogicalMesh, name: str) -> list[list[int]]:
    """Device indices in order along one axis, for each position on the others."""
    sizes = [axis.size for axis in mesh.axes]
    which = [axis.name for axis in mesh.axes].index(name)
    others = [range(s) if i != which else (0,) for i, s in enumerate(sizes)]
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    return [
        [
            mesh.device_order[
                sum(p * s for p, s in zip(at, strides, strict=True)) + k * strides[which]
            ]
            for k in range(sizes[which])
        ]
        for at in itertools.product(*others)
    ]


def test_eight_devices_have_four_meshes() -> None:
    for text in ("v5e:2x4", "8xh100", "cpu:8"):
        meshes = legal_meshes(parse_machine(text))
        sizes = [tuple(axis.size for axis in mesh.axes) for mesh in meshes]
        assert sizes == [(8, 1), (4, 2), (2, 4), (1, 8)]
        assert all([a.name for a in mesh.axes] == ["data", "tensor"] for mesh in meshes)


@pytest.mark.parametrize("text", MACHINES)
@pytest.mark.parametrize("names", [("data",), ("data", "tensor"), ("pipe", "data", "tensor")])
def test_meshes_are_permutations_with_positive_rates(text: str, names: tuple[str, ...]) -> None:
    machine = parse_machine(text)
    meshes = legal_meshes(machine, names)
    assert meshes
    assert len({tuple(mesh.sizes.values()) for mesh in meshes}) == len(meshes)
    for mesh in meshes:
        assert sorted(mesh.device_order) == list(range(machine.n_devices))
        assert mesh.n_devices == machine.n_devices
        for axis in mesh.axes:
            assert axis.bytes_per_s > 0
            assert axis.latency_s >= 0
            assert (axis.link != "") == (axis.size > 1)


@pytest.mark.parametrize(
    ("text", "sizes", "axis", "links"),
    [
        ("v5e:2x4", {"data": 8}, "data", 2),  # a closed ring through the 2x4 grid
        ("v5e:2x4", {"data": 4, "tensor": 2}, "data", 1),  # an open line of 4
        ("v5e:2x4", {"data": 4, "tensor": 2}, "tensor", 1),  # one link
        ("v5e:4x4", {"data": 4, "tensor": 4}, "tensor", 1),  # no wraparound below 16
        ("v5e:2x2", {"data": 4}, "data", 2),
        ("v5e:8x16", {"data": 8, "tensor": 16}, "tensor", 2),  # 16 wraps
        ("v5e:8x16", {"data": 8, "tensor": 16}, "data", 1),  # 8 does not
        ("v5e:16x16", {"data": 256}, "data", 4),  # two rings at once
    ],
)
def test_links_that_v5e_axes_use(text: str, sizes: dict[str, int], axis: str, links: int) -> None:
    assert axis_of(text, axis, **sizes).bytes_per_s == pytest.approx(links * V5E_BYTES_PER_S)


@pytest.mark.parametrize(
    ("text", "sizes", "axis", "links"),
    [
        ("v5p:4x4x8", {"data": 128}, "data", 6),  # three rings at once
        ("v5p:4x4x8", {"data": 16, "tensor": 8}, "data", 4),
        ("v5p:4x4x8", {"data": 16, "tensor": 8}, "tensor", 2),
        ("v5p:4x4x4", {"a": 4, "b": 4, "c": 4}, "b", 2),
        ("v5p:2x2x4", {"data": 4, "tensor": 4}, "data", 1),  # 4, but no whole 4x4x4 cube
        ("v5p:2x2x4", {"data": 4, "tensor": 4}, "tensor", 2),
        ("v5p:2x2x4", {"data": 16}, "data", 2),
    ],
)
def test_links_that_v5p_axes_use(text: str, sizes: dict[str, int], axis: str, links: int) -> None:
    assert axis_of(text, axis, **sizes).bytes_per_s == pytest.approx(links * V5P_BYTES_PER_S)


def test_an_axis_that_takes_every_second_chip_shares_links() -> None:
    mesh = mesh_from_sizes(parse_machine("v5e:4x4"), {"data": 2, "tensor": 8})
    data, tensor = mesh.axes
    assert tensor.bytes_per_s == pytest.approx(2 * V5E_BYTES_PER_S)
    assert data.bytes_per_s == pytest.approx(V5E_BYTES_PER_S / 2)
    assert "every 2 chips" in data.link


def test_unequal_rings_gather_together() -> None:
    # 64 = a ring of 16 at 2 W and a ring of 4 that shares its links with 3 others: 2 W / 4.
    mesh = mesh_from_sizes(parse_machine("v5e:16x16"), {"data": 64, "tensor": 4})
    assert mesh.axes[0].bytes_per_s == pytest.approx(2 * V5E_BYTES_PER_S)
    assert mesh.axes[1].bytes_per_s == pytest.approx(2 * V5E_BYTES_PER_S)


def test_links_are_described() -> None:
    assert axis_of("v5e:2x4", "data", data=8).link == "ICI x,y (ring of 8 over 2x4)"
    assert axis_of("v5e:2x4", "data", data=4, tensor=2).link == "ICI y (line of 4)"
    assert axis_of("v5p:4x4x8", "data", data=128).link == "ICI x,y,z (4x4x8 torus)"
    assert axis_of("8xh100", "data", data=8).link == "NVLink (8)"
    assert axis_of("4x8xh100", "data", data=32).link == "network (4 nodes, NVLink 8 within)"


def test_torus_latency_counts_hops_to_the_farthest_chip() -> None:
    ring = axis_of("v6e:16x16", "data", data=16, tensor=16)
    assert ring.latency_s * 15 == pytest.approx(8e-6)
    whole = axis_of("v5p:4x4x8", "data", data=128)
    assert whole.latency_s * 127 == pytest.approx((2 + 2 + 4) * 1e-6)


def test_gpu_axes() -> None:
    assert axis_of("8xh100", "data", data=8).bytes_per_s == pytest.approx(H100_BYTES_PER_S)
    mesh = mesh_from_sizes(parse_machine("16x8xh100"), {"data": 16, "tensor": 8})
    data, tensor = mesh.axes
    assert tensor.bytes_per_s == pytest.approx(H100_BYTES_PER_S)  # inside a node
    assert data.bytes_per_s == pytest.approx(400e9 / 8)  # one of 8 that share the node's network
    assert mesh.device_order == tuple(range(128))
    wide = axis_of("16x8xh100", "data", data=64, tensor=2)
    assert wide.bytes_per_s == pytest.approx(400e9 / 2)
    assert data.latency_s > tensor.latency_s


def test_gpu_axes_of_odd_sizes_do_not_straddle_nodes() -> None:
    mesh = mesh_from_sizes(parse_machine("3x8xh100"), {"data": 8, "tensor": 3})
    assert mesh.sizes == {"data": 8, "tensor": 3}
    for line in lines_along(mesh, "data"):
        assert len({device // 8 for device in line}) == 1


def test_the_first_axis_runs_over_slices_with_its_outer_part() -> None:
    machine = parse_machine("2*v5p:4x4x4")
    for sizes in ({"data": 2, "tensor": 64}, {"data": 8, "tensor": 16}, {"data": 64, "tensor": 2}):
        mesh = mesh_from_sizes(machine, sizes)
        data, tensor = mesh.axes
        assert data.link.startswith("DCN (2 slices")
        assert tensor.link.startswith("ICI")
        n = machine.n_devices // 2
        assert sorted(mesh.device_order[:n]) == list(range(n))  # slice by slice
        for line in lines_along(mesh, "tensor"):
            assert len({device // n for device in line}) == 1


def test_an_axis_over_slices_sends_through_the_share_of_each_device() -> None:
    data = axis_of("2*v5p:4x4x4", "data", data=2, tensor=64)
    assert data.bytes_per_s == pytest.approx(6.25e9)
    # All 64 devices of a slice send at once: V / 2 / 64 each, then they gather among themselves.
    whole = axis_of("2*v5p:4x4x4", "data", data=128)
    inside = axis_of("v5p:4x4x4", "data", data=64)
    seconds = 1 / 2 / 64 / 6.25e9 + 63 / 64 / inside.bytes_per_s
    assert whole.bytes_per_s == pytest.approx(127 / 128 / seconds)


def test_devices_of_a_chip_share_its_links() -> None:
    mesh = mesh_from_sizes(parse_machine("v7x:2x2x1"), {"data": 4, "tensor": 2})
    data, tensor = mesh.axes
    assert tensor.link == "2 on a chip"
    assert tensor.bytes_per_s == pytest.approx(540e9)
    assert data.bytes_per_s == pytest.approx(2 * 90e9 / 2)
    for line in lines_along(mesh, "tensor"):
        assert len({device // 2 for device in line}) == 1


def test_pairwise_links_are_slow_for_few_devices() -> None:
    by_size = [axis_of("8xmi300x", "a", a=n, b=8 // n).bytes_per_s for n in (2, 4, 8)]
    assert by_size == pytest.approx([48e9, 3 * 48e9, 7 * 48e9])


def test_racks_share_their_network() -> None:
    data = axis_of("4xgb200-nvl72", "data", data=4, tensor=72)
    assert data.bytes_per_s == pytest.approx(50e9)
    assert axis_of("4xgb200-nvl72", "data", data=72, tensor=4).bytes_per_s > 10 * data.bytes_per_s


def test_three_axes_over_the_largest_slice_are_quick_and_always_the_same() -> None:
    machine = parse_machine("v5p:16x16x24")
    began_s = time.process_time()
    meshes = legal_meshes(machine, ("pipe", "data", "tensor"))
    assert time.process_time() - began_s < 3.0  # 0.5 s on a machine that does nothing else
    assert len(meshes) == 234
    assert legal_meshes(machine, ("pipe", "data", "tensor")) == meshes


def test_ring_order_is_the_one_jax_uses_on_a_v5e_host() -> None:
    mesh = mesh_from_sizes(parse_machine("v5e:2x4"), {"data": 8})
    assert mesh.device_order == (0, 1, 2, 3, 7, 6, 5, 4)


@pytest.mark.parametrize("text", ["v5e:2x4", "v5e:4x4", "v5p:2x2x4", "v5p:4x4x4"])
def test_axes_run_over_neighbouring_chips(text: str) -> None:
    machine = parse_machine(text)
    for mesh in legal_meshes(machine):
        for axis in mesh.axes:
            if "every" in axis.link:
                continue  # not neighbours, and said so
            for line in lines_along(mesh, axis.name):
                cells = [coords(machine, device) for device in line]
                for a, b in itertools.pairwise(cells):
                    assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) == 1
                if axis.size > 2 and "ring" in axis.link and "over" in axis.link:
                    a, b = cells[0], cells[-1]
                    assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) == 1


def test_whole_dimensions_are_not_cut_without_need() -> None:
    for text in ("v5e:4x4", "v5e:16x16"):
        side = parse_machine(text).topology[0]
        mesh = mesh_from_sizes(parse_machine(text), {"data": side, "tensor": side})
        assert mesh.device_order == tuple(range(side * side))


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        ("v5e:2x4", {"data": 4, "tensor": 4}, "has 16 positions, but v5e:2x4 has 8 devices"),
        ("cpu:8", {"data": 0, "tensor": 8}, "axis 'data' has size 0, the least is 1"),
        ("cpu:8", {"data": -8, "tensor": -1}, "axis 'data' has size -8"),
        ("cpu:8", {}, "1 to 3 axes of different names, got 0"),
        ("cpu:8", {"a": 8, "b": 1, "c": 1, "d": 1}, "1 to 3 axes of different names, got 4"),
        ("v5e:1x8", {"a": 2, "b": 2, "c": 2}, "cannot be laid on v5e:1x8: .* more than 2 axes"),
    ],
)
def test_mesh_errors(text: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(MachineError, match=message):
        mesh_from_sizes(parse_machine(text), sizes)


def test_names_must_differ() -> None:
    with pytest.raises(MachineError, match="different names"):
        legal_meshes(parse_machine("cpu:8"), ("data", "data"))


@settings(deadline=None, max_examples=50)  # the machine may be busy; the law is not about time
@given(
    shape=st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3),
    first=st.integers(0, 9),
    second=st.integers(0, 9),
)
def test_no_axis_beats_the_links_of_a_chip(
    shape: tuple[int, int, int], first: int, second: int
) -> None:
    n = math.prod(shape)
    a = min(2**first, n)
    b = min(2**second, n // a)
    machine = parse_machine("v5p:" + "x".join(map(str, shape)))
    sizes = {"a": a, "b": b, "c": n // (a * b)}
    assume(sum(size > 1 for size in sizes.values()) <= 2 * sum(size > 1 for size in shape))
    mesh = mesh_from_sizes(machine, sizes)
    in_use = [axis for axis in mesh.axes if axis.size > 1]
    # Axes of one mesh lie on different links: together they have no more than one chip has.
    assert sum(axis.bytes_per_s for axis in in_use) <= 6.001 * V5P_BYTES_PER_S
