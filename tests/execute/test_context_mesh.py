"""`jax.set_mesh`: programs that speak of the mesh in context, with and without explicit types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from autoshard import autoshard

P = PartitionSpec
SIZES = {"data": 4, "tensor": 2}


def _mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(kind,) * 2)


@pytest.fixture
def explicit() -> Iterator[jax.sharding.Mesh]:
    mesh = _mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture
def automatic() -> Iterator[jax.sharding.Mesh]:
    mesh = _mesh(AxisType.Auto)
    with jax.set_mesh(mesh):
        yield mesh


def _explicit_step(w: jax.Array, x: jax.Array) -> Any:
    """Everything that types of layouts touch: reshards, `out_sharding`, a loop, a branch, remat."""

    def loss(w: jax.Array) -> jax.Array:
        h, _ = jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x @ w, None, length=3)
        h = jax.sharding.reshard(h, P("data", None))
        whole = jax.sharding.reshard(w, P())
        h = jax.lax.cond(h.sum() > 0, jnp.sin, jnp.cos, h)
        y = jax.checkpoint(lambda h: jnp.einsum("bd,ed->be", h, whole, out_sharding=P("data")))(h)
        return (y**2).mean()

    value, grad = jax.value_and_grad(loss)(w)
    return w - 0.1 * grad, value


def _arguments(mesh: jax.sharding.Mesh) -> tuple[jax.Array, jax.Array]:
    w = jax.random.normal(jax.random.key(0), (16, 8))
    x = jax.random.normal(jax.random.key(1), (32, 16))
    spec = NamedSharding(mesh, P(None, "tensor"))
    return jax.device_put(w, spec), jax.device_put(x, NamedSharding(mesh, P("data")))


@pytest.mark.filterwarnings("ignore:.*moved")
def test_a_step_with_explicit_types_computes_the_same(explicit: jax.sharding.Mesh) -> None:
    w, x = _arguments(explicit)
    expected = jax.jit(_explicit_step)(w, x)
    sharded = autoshard(_explicit_step)
    for _ in range(2):
        got = sharded(w, x)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert dict(sharded.plan.mesh.sizes) == SIZES


@pytest.mark.filterwarnings("ignore:.*moved")
def test_results_say_how_they_lie(explicit: jax.sharding.Mesh) -> None:
    w, x = _arguments(explicit)
    new, _ = autoshard(_explicit_step)(w, x)
    assert new.sharding.mesh == explicit
    assert (new + w).shape == w.shape  # JAX refuses to mix meshes
    again, _ = autoshard(_explicit_step)(new, x)
    assert again.shape == new.shape


@pytest.mark.filterwarnings("ignore:.*moved")
def test_what_the_user_reshards_is_kept(explicit: jax.sharding.Mesh) -> None:
    w, x = _arguments(explicit)
    sharded = autoshard(lambda w, x: jax.sharding.reshard(jnp.tanh(x @ w), P("tensor", "data")))
    sharded(w, x)
    (leaf,) = sharded.plan.outputs
    assert str(leaf.spec) == "P('tensor', 'data')"


def test_a_mesh_of_automatic_axes_in_context(automatic: jax.sharding.Mesh) -> None:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        h = jax.lax.with_sharding_constraint(x @ w, P("data", "tensor"))
        own = jax.shard_map(lambda h: 2 * h, in_specs=P("data"), out_specs=P("data"))
        return own(h).sum(0)

    w, x = jnp.ones((16, 8)), jnp.arange(32.0 * 16).reshape(32, 16)
    sharded = autoshard(step)
    np.testing.assert_allclose(sharded(w, x), jax.jit(step)(w, x), rtol=1e-6)
    assert dict(sharded.plan.mesh.sizes) == SIZES
    assert any("laid out as written" in note for note in sharded.plan.notes)
