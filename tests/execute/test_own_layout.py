"""Code that users lay out themselves: `shard_map` inside a step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from autoshard import IntentError, autoshard, plan
from autoshard.verify.equality import compare_steps
from tests.execute.models import check

P = PartitionSpec


def _mesh(**sizes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )


def _step(mesh: jax.sharding.Mesh, spec: PartitionSpec, axis: str) -> Any:
    """A train step whose hidden values lose their mean over an axis, by the user's own code."""

    def centred(h: jax.Array) -> jax.Array:
        return h - lax.pmean(h, axis)

    def step(w: jax.Array, x: jax.Array) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            own = jax.shard_map(centred, mesh=mesh, in_specs=spec, out_specs=spec)
            return (jnp.tanh(own(x @ w)) ** 2).mean()

        value, grad = jax.value_and_grad(loss)(w)
        return w - 0.1 * grad, value

    return step


ARGS = (
    jax.random.normal(jax.random.key(0), (16, 8)),
    jax.random.normal(jax.random.key(1), (32, 16)),
)


@pytest.mark.parametrize(
    ("sizes", "spec", "axis"),
    [
        ({"data": 4, "tensor": 2}, P("data", "tensor"), "data"),
        ({"data": 4, "tensor": 2}, P(("data", "tensor")), "tensor"),
        ({"x": 8}, P("x"), "x"),
        ({"x": 2, "y": 4}, P(None, "y"), "y"),
    ],
)
def test_the_mesh_and_the_specs_are_the_users(sizes: Any, spec: Any, axis: str) -> None:
    fn = _step(_mesh(**sizes), spec, axis)
    sharded = autoshard(fn, strict=True)
    check(compare_steps(fn, sharded, ARGS, steps=2))
    assert dict(sharded.plan.mesh.sizes) == sizes
    (note,) = (note for note in sharded.plan.notes if note.startswith("shard_map"))
    assert "is laid out as written" in note
    wanted = tuple(() if e is None else (e,) if isinstance(e, str) else e for e in spec)
    wanted += ((),) * (2 - len(wanted))
    laid = {
        c.specs[0].dims
        for c in sharded.plan.constraints
        if c.primitive == "shard_map" and len(c.shape) == len(wanted)
    }
    assert laid == {wanted}


def test_on_another_mesh_it_is_kept_whole_and_said() -> None:
    fn = _step(_mesh(x=8), P("x"), "x")
    sharded = autoshard(fn, mesh={"data": 4, "tensor": 2})
    check(compare_steps(fn, sharded, ARGS, steps=2))
    (note,) = (note for note in sharded.plan.notes if note.startswith("shard_map"))
    assert "is written for a mesh x 8: what it reads and makes is kept whole" in note


def test_a_mesh_that_the_machine_does_not_have_is_refused() -> None:
    fn = _step(_mesh(x=8), P("x"), "x")
    with pytest.raises(IntentError, match="shard_map inside 'step' are on a mesh x 8"):
        plan(fn, *ARGS, on="v5e:4x4")


def test_devices_in_another_order_compute_the_same() -> None:
    """The plan lays the user's mesh on the machine's links; what runs is the same code."""
    devices = jax.devices()
    mesh = jax.sharding.Mesh([*devices[4:], *devices[:4]], ("x",), axis_types=(AxisType.Auto,))
    fn = _step(mesh, P("x"), "x")
    sharded = autoshard(fn)
    plain = _step(_mesh(x=8), P("x"), "x")
    check(compare_steps(plain, sharded, ARGS, steps=2))


def test_an_axis_of_size_one_makes_another_mesh() -> None:
    """Planning and running agree on which meshes code of a user's is for."""
    fn = _step(_mesh(data=8), P("data"), "data")
    sharded = autoshard(fn, mesh={"data": 8, "tensor": 1})
    check(compare_steps(fn, sharded, ARGS, steps=1))
    assert any("is written for a mesh data 8" in note for note in sharded.plan.notes)
