"""Axis names in Flax's metadata, as pins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from autoshard import autoshard, pins, plan

INIT = nn.initializers.lecun_normal()
MESH = {"data": 4, "tensor": 2}


class Boxed(nn.Module):
    """Two layers that name their dimensions."""

    logical: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        named = nn.with_logical_partitioning if self.logical else nn.with_partitioning
        up, down = (
            (("embed", "mlp"), ("mlp", "embed"))
            if self.logical
            else ((None, "tensor"), ("tensor", None))
        )
        x = nn.relu(nn.Dense(64, kernel_init=named(INIT, up), name="up")(x))
        return nn.Dense(16, kernel_init=named(INIT, down), name="down")(x)


def _linen(logical: bool) -> tuple[Any, Any, Any]:
    model, x = Boxed(logical), jnp.ones((32, 16))
    variables = model.init(jax.random.key(0), x)

    def step(state: Any, x: jax.Array) -> Any:
        value, grad = jax.value_and_grad(lambda v: (model.apply(v, x) ** 2).mean())(state)
        return jax.tree.map(lambda a, b: a - 0.1 * b, state, grad), value

    return step, variables, x


@pytest.mark.parametrize(
    ("logical", "rules"), [(False, None), (True, {"embed": None, "mlp": "tensor"})]
)
@pytest.mark.parametrize("unbox", [False, True])
def test_names_of_linen_are_pins(logical: bool, rules: Any, unbox: bool) -> None:
    step, variables, x = _linen(logical)
    state = nn.unbox(variables) if unbox else variables
    sharded = autoshard(step, mesh=MESH, intent=pins(variables, rules))
    (_, got), (_, expected) = sharded(state, x), jax.jit(step)(state, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    specs = {leaf.path: str(leaf.spec) for leaf in sharded.plan.inputs if "kernel" in leaf.path}
    assert sorted(specs.values()) == ["P('tensor', None)", "P(None, 'tensor')"]


def test_names_of_nnx_are_pins() -> None:
    def layer(rngs: nnx.Rngs) -> nnx.Linear:
        named = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "tensor"))
        return nnx.Linear(16, 64, rngs=rngs, kernel_init=named)

    axes = jax.make_mesh((4, 2), tuple(MESH), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(axes):
        model = layer(nnx.Rngs(0))
    (only,) = pins(nnx.state(model))
    assert (only.path, str(only.spec)) == ("kernel", "P(None, 'tensor')")


def test_a_name_without_a_rule_is_refused() -> None:
    _, variables, _ = _linen(logical=True)
    with pytest.raises(ValueError, match=r"params/up/kernel names a dimension 'mlp'.*'embed'"):
        pins(variables, {"embed": None})


def test_shapes_will_do() -> None:
    step, variables, x = _linen(logical=False)
    shapes = jax.eval_shape(lambda: variables)
    found = plan(step, shapes, x, on="cpu:8", mesh=MESH, intent=pins(shapes))
    assert "P(None, 'tensor')" in {str(leaf.spec) for leaf in found.inputs}
