"""Chains of layers that differ: found, proven, and the same numbers as one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from autoshard.trace.function import trace
from autoshard.trace.pipeline.form import Form
from autoshard.trace.pipeline.forms import in_loops
from autoshard.trace.pipeline.kinds import merged
from autoshard.trace.pipeline.layers import layers_of
from autoshard.trace.signature import signature

WIDTH, BATCH = 4, 8
WIDTHS = (3, 5, 3, 7, 5)
Layer = Callable[[Any, jax.Array, int], jax.Array]


def weights(widths: Sequence[int] = WIDTHS) -> Any:
    keys = jax.random.split(jax.random.key(0), len(widths))
    layers = [
        {"u": jax.random.normal(key, (WIDTH, n)), "d": jax.random.normal(key, (n, WIDTH)) / 3}
        for key, n in zip(keys, widths, strict=True)
    ]
    return {"first": jnp.eye(WIDTH), "layers": layers, "shared": jnp.full((WIDTH, WIDTH), 0.1)}


def mlp(p: Any, x: jax.Array, n: int) -> jax.Array:
    return x + jnp.tanh(x @ p["layers"][n]["u"]) @ p["layers"][n]["d"]


def with_shared(p: Any, x: jax.Array, n: int) -> jax.Array:
    return mlp(p, x, n) + x @ p["shared"]


def step_of(layer: Layer, n: int = len(WIDTHS)) -> Callable[..., Any]:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x = x @ p["first"]
        for k in range(n):
            x = layer(p, x, k)
        return (x**2).mean()

    return jax.value_and_grad(loss)


def form_of(step: Callable[..., Any], p: Any, find: Callable[..., Any] = merged) -> Any:
    sizes = (BATCH, BATCH // 2)
    return find(*(jax.make_jaxpr(step)(p, jnp.ones((size, WIDTH))) for size in sizes))


def check(form: Form, step: Callable[..., Any], p: Any) -> None:
    for closed, size in ((form.big, BATCH), (form.small, BATCH // 2)):
        x = jax.random.normal(jax.random.key(1), (size, WIDTH))
        found = jaxpr_as_fun(closed)(*jax.tree.leaves((p, x)))
        for a, b in zip(found, jax.tree.leaves(jax.jit(step)(p, x)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def loops(form: Form) -> list[Any]:
    return [eqn for eqn in form.big.jaxpr.eqns if eqn.primitive.name == "scan"]


@pytest.mark.parametrize("layer", [mlp, with_shared])
def test_layers_of_several_widths_are_one_loop_there_and_one_back(layer: Layer) -> None:
    step, p = step_of(layer), weights()
    form = form_of(step, p)
    assert form.kinds == (1, 2, 1, 3, 2)
    assert [loop.params["length"] for loop in loops(form)] == [5, 5]
    assert [loop.params["reverse"] for loop in loops(form)] == [False, True]
    check(form, step, p)


def test_recomputed_layers_are_a_chain_too() -> None:
    step, p = step_of(lambda p, x, n: jax.checkpoint(lambda x: mlp(p, x, n))(x)), weights()
    form = form_of(step, p)
    assert form.kinds == (1, 2, 1, 3, 2)
    check(form, step, p)


def test_a_value_that_skips_layers_joins_them() -> None:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x = mlp(p, x @ p["first"], 0)
        kept = x
        x = mlp(p, mlp(p, x, 1), 2) + kept @ p["shared"]
        return (mlp(p, mlp(p, x, 3), 4) ** 2).mean()

    step, p = jax.value_and_grad(loss), weights()
    form = form_of(step, p)
    # The second and third are one, with what goes around them.
    assert len(form.kinds) == 4
    check(form, step, p)


def test_what_all_layers_hand_to_the_loss_leaves_the_loop() -> None:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x, total = x @ p["first"], jnp.zeros(())
        for n in range(len(WIDTHS)):
            x = mlp(p, x, n)
            total += (x**4).mean()
        return (x**2).mean() + total

    step, p = jax.value_and_grad(loss), weights()
    form = form_of(step, p)
    assert len(form.kinds) == len(WIDTHS)
    check(form, step, p)


def test_nothing_is_a_chain_where_every_layer_reads_all_before_it() -> None:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        seen = [x @ p["first"]]
        for n in range(len(WIDTHS)):
            seen.append(mlp(p, sum(seen), n))
        return (sum(seen) ** 2).mean()

    assert form_of(jax.value_and_grad(loss), weights()) is None


def test_equal_layers_stay_a_plain_loop() -> None:
    p = weights((5,) * 4)
    form = form_of(step_of(mlp, 4), p, in_loops)
    assert form.kinds == ()
    assert "equal layers" in form.notes[0]


def test_layers_that_differ_are_taken_where_equal_ones_leave_work_outside() -> None:
    p = weights((3, 3, 3, 7, 9, 11))
    form = form_of(step_of(mlp, 6), p, in_loops)
    assert form.kinds == (1, 1, 1, 2, 3, 4)
    check(form, step_of(mlp, 6), p)


def stacked(widths: Sequence[tuple[int, int]]) -> Any:
    """Stacks of layers: how many, and how wide."""
    p = weights([n for _, n in widths])
    stacks = [
        jax.tree.map(
            lambda x, count=count: jnp.stack([x * (k + 1) / count for k in range(count)]), w
        )
        for (count, _), w in zip(widths, p["layers"], strict=True)
    ]
    return {"first": p["first"], "stacks": stacks}


def test_loops_one_after_the_other_are_one() -> None:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x, total = x @ p["first"], jnp.zeros(())
        for stack in p["stacks"]:

            def layer(x: jax.Array, w: Any) -> tuple[jax.Array, jax.Array]:
                return x + jnp.tanh(x @ w["u"]) @ w["d"], (x**4).mean()

            x, added = jax.lax.scan(layer, x, stack)
            total += added.sum()
        return (x**2).mean() + total

    step, p = jax.value_and_grad(loss), stacked([(1, 3), (3, 5), (2, 3)])
    form = form_of(step, p, in_loops)
    assert form.kinds == (1, 2, 2, 2, 3, 3)
    assert len(loops(form)) == 2
    check(form, step, p)


def test_loops_with_something_between_stay_apart() -> None:
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x = x @ p["first"]
        for stack in p["stacks"]:
            x, _ = jax.lax.scan(
                lambda x, w: (x + jnp.tanh(x @ w["u"]) @ w["d"], None), jnp.sin(x), stack
            )
        return (x**2).mean()

    step, p = jax.value_and_grad(loss), stacked([(2, 3), (3, 5)])
    form = form_of(step, p, in_loops)
    assert form.kinds == ()
    assert len(loops(form)) == 4


def test_layers_alike_by_chance_are_of_two_kinds() -> None:
    # A dimension as large as the whole batch, and a mask over the batch: alike for this batch only.
    def loss(p: Any, x: jax.Array) -> jax.Array:
        x = x @ p["first"]
        for n in range(4):
            size = x.shape[0] if n % 2 else BATCH
            x = mlp(p, x, n) + jnp.full((size, WIDTH), 0.5).mean() * x
        return (x**2).mean()

    p = weights((3,) * 4)
    form = form_of(jax.value_and_grad(loss), p)
    assert form.kinds == (1, 2, 1, 2)


def test_only_the_joined_loop_has_kinds() -> None:
    """Beside it a loop of its own, and one with a switch of the user's, whose 0 is a layer."""
    kinds = np.array([0, 1, 0, 1], np.int32)

    def loss(p: Any, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
            return x + jnp.tanh(x @ w["u"]) @ w["d"], None

        def chosen(x: jax.Array, at: Any) -> tuple[jax.Array, None]:
            w, kind = at
            branches = [lambda x: x @ w, lambda x: jnp.tanh(x @ w)]
            return jax.lax.switch(kind, branches, x), None

        x, one, two = x @ p["first"], *p["stacks"]
        first = jnp.sin(jax.lax.scan(layer, x, one)[0])
        second = jnp.sin(jax.lax.scan(chosen, first, (p["squares"], kinds))[0])
        for stack in (one, two):
            second, _ = jax.lax.scan(layer, second, stack)
        return (second**2).mean()

    p = stacked([(2, 3), (3, 5)])
    p["squares"] = jnp.stack([jnp.eye(WIDTH)] * 4)
    args = (p, jnp.ones((BATCH, WIDTH)))
    step = jax.value_and_grad(loss)
    layers = layers_of(trace(step, signature(args, ["p", "x"]), name="step"))
    found = {(loop.small.params["length"], loop.kinds is None) for loop in layers.loops.values()}
    assert found == {(2, True), (4, True), (5, False)}
    assert len(layers.flops) == 5
