"""Flax NNX modules and optimizers as arguments: changed in place, as `nnx.jit` does."""

import copy
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from autoshard import autoshard
from tests.api.steps import close


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.down = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.dropout(nnx.relu(self.norm(self.up(x)))))


def train(model: Net, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, x: Any, y: Any) -> Any:
    def loss_of(m: Net) -> jax.Array:
        return jnp.mean((m(x) - y) ** 2)

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    metrics.update(loss=loss)
    return loss


def make() -> tuple[Any, ...]:
    model = Net(nnx.Rngs(0, dropout=1))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    return model, optimizer, nnx.MultiMetric(loss=nnx.metrics.Average("loss"))


@pytest.mark.parametrize("mesh", [{"data": 8, "tensor": 1}, {"data": 2, "tensor": 4}])
def test_everything_an_nnx_step_changes_is_changed(mesh: Any) -> None:
    x = jnp.sin(jnp.arange(128.0)).reshape(16, 8)
    y = jnp.cos(x[:, :4])
    ours, theirs = make(), make()
    step, reference = autoshard(train, mesh=mesh), nnx.jit(train)
    for _ in range(4):
        loss, expected = step(*ours, x, y), reference(*theirs, x, y)
        assert close(loss, expected)
    for mine, other in zip(ours, theirs, strict=True):
        assert close(nnx.state(mine), nnx.state(other), tolerance=1e-4)
    assert ours[0].dropout.rngs.count[...] == 4
    assert close(ours[2].compute(), theirs[2].compute())


def test_paths_read_like_attributes_of_the_arguments() -> None:
    step = autoshard(train)
    plan = step.plan_for(*make(), jnp.ones((16, 8)), jnp.ones((16, 4)))
    paths = [leaf.path for leaf in plan.inputs]
    assert any(p.startswith("model['up']['kernel']") for p in paths), paths
    assert any(p.startswith("optimizer[") for p in paths)
    assert {"x", "y"} <= set(paths)


def test_a_module_inside_a_container() -> None:
    def scale(held: dict[str, Any], x: jax.Array) -> jax.Array:
        held["models"][0].kernel[...] = held["models"][0].kernel[...] * 2
        return held["models"][0](x)

    held = {"models": [nnx.Linear(8, 4, rngs=nnx.Rngs(0))]}
    before = copy.deepcopy(held["models"][0].kernel[...])
    out = autoshard(scale)(held, jnp.ones((8, 8)))
    assert close(held["models"][0].kernel[...], before * 2)
    assert out.shape == (8, 4)


def test_split_and_merge_by_hand_is_plain_pytrees() -> None:
    graph, state = nnx.split(nnx.Linear(8, 4, rngs=nnx.Rngs(0)))

    def step(state: nnx.State, x: jax.Array) -> Any:
        model = nnx.merge(graph, state)
        return nnx.split(model)[1], model(x)

    x = jnp.ones((8, 8))
    new, out = autoshard(step)(state, x)
    assert close(out, step(state, x)[1])
    assert close(new, state)


def test_later_calls_are_quiet_and_do_not_plan() -> None:
    step = autoshard(train)
    arguments = (*make(), jnp.ones((16, 8)), jnp.ones((16, 4)))
    step(*arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(*arguments)


def test_returning_a_module_is_refused() -> None:
    def step(model: Any) -> Any:
        return model

    with pytest.raises(TypeError, match="returns an NNX module"):
        autoshard(step)(nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
