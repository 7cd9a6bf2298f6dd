"""Arguments of classes that hold nothing but arrays: no shardings, and no placeholders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import autoshard

MESH = {"data": 4, "tensor": 2}


@jax.tree_util.register_pytree_node_class
class Data:
    """Looks at what it is made of, as many a class does when it is made."""

    def __init__(self, x, y):
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"{x.shape} and {y.shape} are of other lengths")
        self.x, self.y = x, y

    def tree_flatten(self):
        return (self.x, self.y), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def step(w, data):
    def loss(w):
        return ((data.x @ w - data.y) ** 2).mean()

    value, grad = jax.value_and_grad(loss)(w)
    return w - 0.1 * grad, {"loss": value, "data": Data(data.x + 1, data.y)}


def args(n=32):
    x = jnp.linspace(-1.0, 1.0, n * 16).reshape(n, 16)
    return jnp.ones((16, 8)) / 16, Data(x, jnp.sin(x[:, :8]))


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*planning again")
def test_such_arguments_and_results_pass():
    sharded = autoshard(step, mesh=MESH, strategy="fsdp_tensor")
    for n in (32, 32, 64):  # compiled, called again, and for another signature
        same(sharded(*args(n)), step(*args(n)))
    assert any(leaf.spec.dims for leaf in sharded.plan.inputs)


@pytest.mark.filterwarnings("ignore:.*planning again")
def test_another_structure_is_planned_anew():
    def total(state):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(state))

    sharded = autoshard(total, mesh=MESH)
    data = args()[1]
    for state in (data, (data.x, data.y), [data], data):
        same(sharded(state), total(state))


def test_they_are_donated():
    def next_data(data, by):
        return Data(data.x * by, data.y)

    sharded = autoshard(next_data, mesh=MESH, donate_argnums=(0,), strategy="fsdp_tensor")
    placed = sharded(args()[1], 2.0)
    held = sharded(placed, 2.0)
    assert placed.x.is_deleted()
    same(held, next_data(next_data(args()[1], 2.0), 2.0))


def test_they_are_lowered_and_compiled():
    compiled = autoshard(step, mesh=MESH).lower(*args()).compile()
    assert compiled.memory_analysis() is not None
    same(compiled(*args()), step(*args()))


def test_state_of_such_a_class_is_made_in_place():
    def advance(data):
        return Data(data.x + 1, data.y)

    sharded = autoshard(advance, mesh=MESH, strategy="fsdp_tensor")
    sharded.plan_for(args()[1])
    made = sharded.init(lambda: args()[1])
    same(made, args()[1])
    specs = [leaf.spec.dims for leaf in sharded.plan.inputs]
    assert len(made.x.sharding.device_set) == 8
    assert any(specs)
    assert not made.x.sharding.is_fully_replicated
