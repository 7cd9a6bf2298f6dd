"""NNX modules that change in more than the values of their variables; modules made by `init`."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from autoshard import AutoshardWarning, autoshard
from tests.api.steps import close


class Counting(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.mode = "new"

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.drop(self.dense(x))
        self.seen = nnx.Intermediate(out.mean())
        return out


def run(model: Counting, x: jax.Array) -> jax.Array:
    model.eval()
    model.mode = "used"
    return model(x)


def test_attributes_that_a_step_sets_and_variables_it_adds_are_kept() -> None:
    ours, theirs, x = Counting(nnx.Rngs(0)), Counting(nnx.Rngs(0)), jnp.ones((8, 8))
    out, expected = autoshard(run)(ours, x), nnx.jit(run)(theirs, x)
    assert close(out, expected)
    assert ours.mode == theirs.mode == "used"
    assert ours.drop.deterministic == theirs.drop.deterministic
    assert close(ours.seen[...], theirs.seen[...])


def test_attributes_that_a_step_removes_are_gone() -> None:
    def strip(model: Counting, x: jax.Array) -> jax.Array:
        out = model(x)
        del model.seen
        return out

    model = Counting(nnx.Rngs(0))
    model.eval()
    model(jnp.ones((8, 8)))
    assert hasattr(model, "seen")
    autoshard(strip)(model, jnp.ones((8, 8)))
    assert not hasattr(model, "seen")


def test_a_structure_that_changes_plans_again_and_says_so() -> None:
    def forward(model: Counting, x: jax.Array) -> jax.Array:
        return model.drop(model.dense(x))

    model, x, step = Counting(nnx.Rngs(0)), jnp.ones((8, 8)), autoshard(forward)
    step(model, x)
    model.eval()
    with pytest.warns(AutoshardWarning, match="static attribute of an NNX module changed"):
        step(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()
        step(model, x)
        model.eval()
        step(model, x)


def test_modules_that_share_variables_stay_tied() -> None:
    def scale(one: Any, two: Any) -> None:
        two[0].kernel[...] = two[0].kernel[...] * 2

    shared = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    before = shared.kernel[...]
    autoshard(scale)(shared, [shared])
    assert close(shared.kernel[...], 2 * before)


def test_each_module_is_donated_by_its_own_name() -> None:
    def add(one: nnx.Linear, two: nnx.Linear) -> None:
        one.kernel[...] = one.kernel[...] + two.kernel[...]

    one, two = (nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in range(2))
    step = autoshard(add, donate_argnames="one")
    step(one, two)
    before = one.kernel[...], two.kernel[...]
    step(one, two)
    assert before[0].is_deleted()
    assert not before[1].is_deleted()
    assert two.kernel[...] is not None


def test_paths_have_no_tail() -> None:
    def forward(model: dict[str, Any], x: jax.Array) -> jax.Array:
        return model["blocks"][0](x)

    model = {"blocks": [nnx.Linear(8, 8, rngs=nnx.Rngs(0))]}
    step = autoshard(forward)
    paths = {leaf.path for leaf in step.plan_for(model, jnp.ones((8, 8))).inputs}
    assert paths == {"model['blocks'][0]['bias']", "model['blocks'][0]['kernel']", "x"}


def train(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array) -> jax.Array:
    loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
    optimizer.update(model, grads)
    return loss


@pytest.mark.parametrize("planned", [False, True])
def test_init_makes_modules_in_place(planned: bool) -> None:
    def create(key: jax.Array) -> Any:
        model = nnx.Linear(64, 4096, rngs=nnx.Rngs(key))
        return model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    key, x = jax.random.key(0), jnp.ones((16, 64))
    step = autoshard(train, strategy="zero3", mesh={"data": 8, "tensor": 1})
    if planned:
        step.plan_for(*nnx.eval_shape(create, key), x)
    model, optimizer = step.init(create, key)
    assert isinstance(optimizer, nnx.Optimizer)
    kernel = model.kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    assert close(kernel, create(key)[0].kernel[...])
    if planned:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step(model, optimizer, x)
