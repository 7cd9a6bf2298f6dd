"""Stages stand on either side of the slowest network, and what they hand on is priced there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from autoshard import plan
from autoshard.cost.collectives import collective_time_s
from autoshard.machine import (
    LogicalMesh,
    Machine,
    MeshAxis,
    Switched,
    mesh_from_sizes,
    parse_machine,
)
from autoshard.machine.network import Network, Slices

# Machines of several slices or nodes, with meshes of pipe x data x tensor.
PLACES = [
    ("2*v5e:4x4", (2, 4, 4)),
    ("2*v5e:4x4", (2, 16, 1)),
    ("2*v5e:4x4", (2, 1, 16)),
    ("4*v5p:2x2x4", (4, 8, 2)),
    ("16x8xh100", (16, 1, 8)),
    ("16x8xh100", (16, 4, 2)),
    ("4xgb200-nvl72", (4, 9, 8)),
]


def laid(machine: Machine, sizes: tuple[int, int, int]) -> tuple[LogicalMesh, dict[str, MeshAxis]]:
    mesh = mesh_from_sizes(machine, dict(zip(("pipe", "data", "tensor"), sizes, strict=True)))
    return mesh, {axis.name: axis for axis in mesh.axes}


def hand_off_s(network: Network, size_bytes: float) -> float:
    """From the machine's own numbers: one device to its counterpart in the next slice or node."""
    if isinstance(network, Slices):
        return network.dcn_latency_s + size_bytes / network.dcn_bytes_per_s
    assert isinstance(network, Switched)
    assert network.node_bytes_per_s is not None
    # All devices of a node hand on at once.
    share = network.node_bytes_per_s / network.domain_devices
    return network.base_latency_s + network.node_hop_latency_s + size_bytes / share


@pytest.mark.parametrize(("text", "sizes"), PLACES)
def test_as_many_stages_as_slices_or_nodes_are_one_in_each(
    text: str, sizes: tuple[int, int, int]
) -> None:
    machine = parse_machine(text)
    mesh, axes = laid(machine, sizes)
    assert axes["pipe"].link.startswith(("DCN", "network"))
    # The first axis is the outermost: a stage is a run of devices, and here a whole slice or node.
    per_stage = machine.n_devices // sizes[0]
    for stage in range(sizes[0]):
        own = mesh.device_order[stage * per_stage : (stage + 1) * per_stage]
        assert {device // per_stage for device in own} == {stage}
    for name in ("data", "tensor"):
        assert not axes[name].link.startswith(("DCN", "network"))
        if axes[name].size > 1:
            assert axes[name].bytes_per_s > axes["pipe"].bytes_per_s


@pytest.mark.parametrize(("text", "sizes"), PLACES)
def test_hand_offs_are_priced_on_the_network_between(
    text: str, sizes: tuple[int, int, int]
) -> None:
    machine = parse_machine(text)
    _, axes = laid(machine, sizes)
    for size_bytes in (1e3, 1e6, 1e9):
        wanted_s = hand_off_s(machine.network, size_bytes)
        assert collective_time_s("permute", axes["pipe"], size_bytes) == pytest.approx(wanted_s)


def test_fewer_stages_than_nodes_leave_the_rest_of_the_network_to_data() -> None:
    _, axes = laid(parse_machine("16x8xh100"), (4, 8, 4))
    assert axes["pipe"].link == "network (4 nodes)"
    assert axes["data"].link == "network (4 nodes, NVLink 2 within)"
    assert axes["tensor"].link == "NVLink (4)"


def test_more_stages_than_slices_are_as_fast_as_the_slowest_hand_off() -> None:
    machine = parse_machine("2*v5e:4x4")
    _, axes = laid(machine, (4, 4, 2))
    assert axes["pipe"].link.startswith("DCN (2 slices")
    wanted_s = hand_off_s(machine.network, 1e6)
    assert collective_time_s("permute", axes["pipe"], 1e6) == pytest.approx(wanted_s)


def _loss(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()


@pytest.mark.parametrize("text", ["2*v5e:2x2", "2x4xh100"])
def test_a_plan_pays_every_hand_off_there(text: str) -> None:
    machine = parse_machine(text)
    w, x = jnp.ones((4, 128, 128)), jnp.ones((64, 128))
    # In whatever order the axes are asked for.
    mesh = {"data": 2, "tensor": 2, "pipe": 2}
    found = plan(jax.grad(_loss), w, x, devices=text, mesh=mesh, time_limit_s=1)
    assert found.pipeline is not None
    links = dict(zip(found.mesh.axis_names, found.mesh.links, strict=True))
    assert links["pipe"].startswith(("DCN", "network"))
    hand_offs = [c for c in found.collectives if (c.kind, c.axes) == ("permute", ("pipe",))]
    # One per tick, forward and back.
    assert sum(c.count for c in hand_offs) == 2 * found.pipeline.ticks
    for c in hand_offs:
        assert c.seconds == pytest.approx(c.count * hand_off_s(machine.network, c.bytes))
