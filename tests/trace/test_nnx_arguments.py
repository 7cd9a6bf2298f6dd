"""Every kind of NNX object keeps its changes; an optimizer is no `nnx.Module` and was once lost."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from autoshard.trace.nnx import holds_modules, put_back, take_apart

MODEL = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

KINDS = {
    "module": MODEL,
    "optimizer": nnx.Optimizer(MODEL, optax.adam(1e-3), wrt=nnx.Param),
    "metric": nnx.metrics.Average("loss"),
    "rngs": nnx.Rngs(0),
    "variable": nnx.Variable(jnp.zeros(2)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_taken_apart_and_updated_in_place(name):
    value = KINDS[name]
    arguments = (value, jnp.ones(3))
    modules, (state, other) = take_apart(arguments, ["it", "x"])
    assert modules.positions == (0,)
    assert other.shape == (3,)
    before = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.number)]
    assert before
    changed = jax.tree.map(
        lambda x: x + 1 if jnp.issubdtype(x.dtype, jnp.number) else x, jax.tree.map(jnp.copy, state)
    )
    expected = [x + 1 for x in before]
    put_back(modules, arguments, {"it": changed}, modules.graph)
    now = jax.tree.leaves(take_apart(arguments, ["it", "x"])[1][0])
    after = [x for x in now if jnp.issubdtype(x.dtype, jnp.number)]
    assert all((a == b).all() for a, b in zip(after, expected, strict=True))


def test_arrays_and_containers_hold_none():
    assert not holds_modules([jnp.zeros(2), {"a": (1, None)}, "text"])
    assert holds_modules([{"inside": [MODEL]}])
