"""Orders in which microbatches go through stages: the same numbers in all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard import PipelineError, autoshard, plan
from autoshard.verify.equality import compare_steps
from tests.execute.models import check
from tests.execute.stages import CASES as STAGED
from tests.laws.steps import GPT, functional, gpt

# Name -> step, mesh, microbatches, schedule: two stacks in t5, of which one goes one by one.
CASES: dict[str, tuple[Any, dict[str, int], int, str]] = {
    **{
        f"{name}, 1f1b": (*STAGED[name], "1f1b")
        for name in ("gpt, dropout", "gpt, uneven", "gpt, nnx", "moe", "vit", "t5")
    },
    "gpt, accumulated, 1f1b": (STAGED["gpt, accumulated"][0], {"pipe": 2, "tensor": 4}, 2, "1f1b"),
    "gpt, round twice": (STAGED["gpt, dropout"][0], {"pipe": 2, "data": 4}, 2, "circular"),
    "gpt, uneven, round twice": (
        functional(gpt, replace(GPT, layers=7)),
        {"pipe": 2, "tensor": 4},
        2,
        "circular",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_order_computes_the_same(name: str) -> None:
    build, mesh, microbatches, schedule = CASES[name]
    fn, args = build()
    sharded = autoshard(fn, mesh=mesh, microbatch=microbatches, schedule=schedule, time_limit_s=1)
    report = compare_steps(fn, sharded, args, steps=2)
    assert sharded.plan.pipeline is not None
    assert sharded.plan.pipeline.schedule == schedule
    check(report)


def _coupled(w: jax.Array, x: jax.Array) -> jax.Array:
    """Each example's part of the loss depends on all of them."""

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ w), None

    return jnp.log(jnp.exp(jax.lax.scan(layer, x, w)[0]).sum())


def test_a_loss_that_couples_examples_goes_forward_first() -> None:
    step, args = jax.value_and_grad(_coupled), (jnp.ones((4, 8, 8)) / 9, jnp.ones((16, 8)))
    with pytest.raises(PipelineError, match=r"all microbatches \(.*test_schedules\.py:\d+"):
        plan(step, *args, devices="cpu:8", pipeline=2, schedule="1f1b")
    sharded = autoshard(step, pipeline=2, time_limit_s=1)
    check(compare_steps(step, sharded, args, steps=1))
    assert sharded.plan.pipeline is not None
    assert sharded.plan.pipeline.schedule != "1f1b"


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule='2f2b'"):
        autoshard(lambda x: x, schedule="2f2b")


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "circular"])
def test_what_layers_share_is_added_up_where_it_is(schedule: str) -> None:
    def loss(w: jax.Array, shared: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ w + shared), None

        return (jax.lax.scan(layer, x, w)[0] ** 2).mean()

    step = jax.value_and_grad(loss, argnums=(0, 1))
    args = (jnp.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8), jnp.ones(8) / 7, jnp.ones((16, 8)))
    sharded = autoshard(
        step,
        mesh={"pipe": 2, "data": 2, "tensor": 2},
        microbatch=4,
        schedule=schedule,
        time_limit_s=1,
    )
    check(compare_steps(step, sharded, args, steps=1))
    # The carry alone is handed on: what is shared has its gradient on every stage.
    sent = [c for c in sharded.plan.collectives if c.kind == "permute" and c.axes == ("pipe",)]
    assert {c.tensor for c in sent} == {"float32[2,8]"}


def test_sums_that_layers_look_at_are_handed_on() -> None:
    def loss(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def layer(carry: Any, w: jax.Array) -> tuple[Any, jax.Array]:
            x, total = carry
            x = jnp.tanh(x @ w)
            total = total + x.sum(0)  # of all layers so far
            return (x, total), total

        (x, _), totals = jax.lax.scan(layer, (x, jnp.zeros(8)), w)
        return (x**2).mean(), totals

    step = jax.value_and_grad(loss, has_aux=True)
    args = (jnp.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8), jnp.ones((64, 8)))
    mesh = {"pipe": 2, "data": 2, "tensor": 2}
    sharded = autoshard(step, mesh=mesh, microbatch=4, schedule="gpipe", time_limit_s=1)
    check(compare_steps(step, sharded, args, steps=1))
    assert sharded.plan.pipeline is not None
