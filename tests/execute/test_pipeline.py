"""Layers cut into stages: the same numbers as without, on eight devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from autoshard import PipelineError, autoshard, plan
from autoshard.plan.model import Plan
from autoshard.plan.pipeline import Pipeline
from autoshard.verify.equality import BFLOAT16_TOLERANCE, compare_steps
from tests.execute.models import check
from tests.execute.stages import CASES
from tests.laws.steps import BY_NAME


@pytest.mark.parametrize("name", CASES)
def test_stages_compute_the_same(name: str) -> None:
    build, mesh, microbatches = CASES[name]
    fn, args = build()
    sharded = autoshard(fn, mesh=mesh, microbatch=microbatches, schedule="gpipe", time_limit_s=1)
    report = compare_steps(fn, sharded, args, steps=2)
    sizes = {"data": 1, "tensor": 1} | mesh
    wanted = Pipeline(mesh["pipe"], microbatches, sizes["data"], sizes["tensor"])
    assert sharded.plan.pipeline == wanted
    check(report)


def test_narrow_floats_are_as_close_as_they_can_be() -> None:
    fn, args = BY_NAME["gpt bfloat16"].build()
    mesh = {"pipe": 2, "data": 2, "tensor": 2}
    sharded = autoshard(fn, mesh=mesh, microbatch=2, schedule="gpipe", time_limit_s=1)
    report = compare_steps(fn, sharded, args, steps=2)
    assert sharded.plan.pipeline == Pipeline(2, 2, 2, 2)
    assert report.agrees(BFLOAT16_TOLERANCE), report


def test_a_number_of_stages_is_enough_and_the_plan_is_kept(tmp_path: Path) -> None:
    fn, args = CASES["gpt"][0]()
    first = plan(fn, *args, devices="cpu:8", pipeline=2, time_limit_s=1)
    assert first.pipeline is not None
    assert first.pipeline.stages == 2
    assert dict(first.mesh.sizes)["pipe"] == 2
    assert {c.axes for c in first.collectives if c.kind == "permute"} >= {("pipe",)}
    assert "2 stages" in str(first)
    first.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == first
    again = autoshard(fn, plan=tmp_path / "plan.json")
    check(compare_steps(fn, again, args, steps=1))


def _normalised(w: jax.Array, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        h = x @ w
        return h - h.mean(0), None  # of the batch

    return jax.lax.scan(layer, x, w)[0].sum()


def test_examples_that_meet_in_a_layer_are_refused_with_the_line() -> None:
    w, x = jnp.ones((4, 8, 8)), jnp.ones((16, 8))
    with pytest.raises(PipelineError, match=r"test_pipeline\.py:\d+"):
        plan(jax.grad(_normalised), w, x, devices="cpu:8", pipeline=2)


def test_no_layers_is_an_error_where_stages_are_asked_for() -> None:
    with pytest.raises(PipelineError, match="no loop"):
        plan(lambda w, x: x @ w, jnp.ones((8, 8)), jnp.ones((8, 8)), devices="cpu:8", pipeline=2)


def test_more_stages_than_layers_are_refused() -> None:
    fn, args = CASES["gpt, uneven"][0]()
    with pytest.raises(PipelineError, match="3 layers"):
        plan(fn, *args, devices="cpu:8", pipeline=8)


@pytest.mark.parametrize("mesh", ["auto", {"pipe": 2, "data": 4}])
def test_never_means_never(mesh: Any) -> None:
    fn, args = CASES["gpt"][0]()
    found = plan(fn, *args, devices="cpu:8", pipeline=False, mesh=mesh, time_limit_s=1)
    assert found.pipeline is None


def _on_a_mesh_of_its_own(w: jax.Array, x: jax.Array) -> jax.Array:
    mesh = jax.make_mesh((2, 4), ("pipe", "data"), axis_types=(AxisType.Auto,) * 2)

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        laid = NamedSharding(mesh, PartitionSpec("data"))
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), laid), None

    return jax.lax.scan(layer, x, w)[0].sum()


def test_an_axis_of_the_users_own_may_be_called_pipe() -> None:
    step, args = jax.grad(_on_a_mesh_of_its_own), (jnp.ones((4, 8, 8)), jnp.ones((16, 8)))
    found = plan(step, *args, mesh={"pipe": 2, "data": 4}, time_limit_s=1)
    assert found.pipeline is None
    assert dict(found.mesh.sizes) == {"pipe": 2, "data": 4}
    with pytest.raises(PipelineError, match="mesh pipe 2 x data 4"):
        plan(step, *args, pipeline=2)


@pytest.mark.parametrize("bad", [True, 1, -2, "yes", 2.0])
def test_what_is_no_number_of_stages_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="how many stages"):
        autoshard(lambda x: x, pipeline=bad)
