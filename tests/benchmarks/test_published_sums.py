"""What a step waits for beside its products: gradients in buffers, kernels to be launched."""

import pytest

from autoshard.cost.collectives import collective_time_s
from autoshard.machine.meshes import mesh_from_sizes
from autoshard.machine.parse import parse_machine
from autoshard.plan.model import Collective
from autoshard.trace.function import trace
from autoshard.trace.signature import signature
from benchmarks.published.launches import launches
from benchmarks.published.sums import Sums, sums_of
from benchmarks.published.training import Recipe

MACHINE = parse_machine("32x8xh100-p5")
MESH = mesh_from_sizes(MACHINE, {"data": 64, "tensor": 4})
DATA = MESH.axes[0]
LOCAL = Recipe(microbatches=2, replicas=64, microbatch=64)


def collective(size_bytes, kind="all-reduce", axis="data", count=1, dtype="float32"):
    seconds = count * collective_time_s(kind, DATA, size_bytes)
    return Collective(
        kind=kind,
        axes=(axis,),
        count=count,
        bytes=size_bytes,
        seconds=seconds,
        exposed_s=seconds,
        tensor=f"{dtype}[1]",
        source="",
        scope="",
        reason="",
    )


def sums(*sent, recipe=LOCAL):
    return sums_of(sent, MESH, MACHINE.chip, recipe)


def test_how_gradients_are_cut_into_leaves_makes_no_difference():
    whole = sums(collective(800e6))
    parts = sums(*[collective(100e6)] * 8)
    assert parts.buffered_s == pytest.approx(whole.buffered_s)
    assert parts.leaf_by_leaf_s > whole.leaf_by_leaf_s


def test_latencies_go_by_bytes():
    once, twice = sums(collective(512e6)).buffered_s, sums(collective(1024e6)).buffered_s
    assert twice == pytest.approx(2 * once)
    assert sums(collective(1e3)).buffered_s == pytest.approx(
        collective_time_s("all-reduce", DATA, 1e3)
    )


def test_scattered_gradients_and_gathered_parameters_are_copied():
    assert sums(collective(1e9)).copies_s == 0
    cut = sums(collective(1e9, "reduce-scatter"), collective(1e9, "all-gather"))
    chip = MACHINE.chip
    assert cut.copies_s == pytest.approx(6e9 / chip.memory_bytes_per_s / chip.memory_efficiency)


@pytest.mark.parametrize("other", [{"axis": "tensor"}, {"count": 24}])
def test_only_what_follows_the_loop_is_sent_in_buffers(other):
    assert sums(collective(1e9, **other)) == Sums()


def test_sums_travel_in_the_dtype_that_gradients_are_added_up_in():
    narrow = sums(collective(400e6, dtype="bfloat16"))
    assert narrow.buffered_s == pytest.approx(sums(collective(800e6)).buffered_s)
    gathered = collective(400e6, "all-gather")
    assert sums(gathered).buffered_s == pytest.approx(
        sums(collective(400e6, "all-gather", dtype="bfloat16")).buffered_s
    )


def test_gradients_reduced_in_every_microbatch_are_not_sent_in_buffers():
    assert sums(collective(1e9), recipe=Recipe(2, 1, 64)) == Sums()


def test_views_are_not_launched():
    import jax
    import jax.numpy as jnp

    row = jax.ShapeDtypeStruct((8,), jnp.float32)
    sig = signature((row,), ["row"])

    def count(function):
        return launches(trace(function, sig, name="f").program, [])

    assert count(lambda x: jnp.broadcast_to(x, (4, 8))) == 0
    assert count(lambda x: jnp.sin(x)) == 1


def test_a_collective_costs_several_launches():
    program = trace(lambda x: x, signature((1.0,), ["x"]), name="f").program
    assert launches(program, [collective(1.0, count=3)]) > 3
