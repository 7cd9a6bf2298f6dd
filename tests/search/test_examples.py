"""Which programs keep the examples of their batch apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard.models.zoo import entries
from autoshard.search.examples import shared
from autoshard.search.graph import build_graph
from autoshard.trace.function import trace
from autoshard.trace.signature import signature

W, X = jnp.ones((12, 20)), jnp.ones((8, 12))


def why(fn: Callable[..., Any], *args: Any, donated: frozenset[int] = frozenset()) -> str:
    sig = signature(args, [f"a{i}" for i in range(len(args))])
    return shared(build_graph(trace(fn, sig, name="fn", donated=donated).program))


def until_all_are_small(w: jax.Array, x: jax.Array) -> jax.Array:
    def step(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w @ w.T) / 2

    return jax.lax.while_loop(lambda x: jnp.any(x > 0.1), step, x)


@pytest.mark.parametrize(
    "fn",
    [
        lambda w, x: x @ w,
        lambda w, x: jax.nn.softmax(x @ w),
        lambda w, x: (x @ w).sum(1),
        lambda w, x: {"top": jax.lax.top_k(x @ w, 2)[0], "kept": x},
        until_all_are_small,
    ],
)
def test_apart(fn: Callable[..., Any]) -> None:
    assert why(fn, W, X) == ""


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda w, x: (x @ w).mean(), "sums over what a1 begins with"),
        (lambda w, x: (x @ w).sum(0), "sums over what a1 begins with"),
        (lambda w, x: x @ w - (x @ w).mean(0), "sums over what a1 begins with"),
        (lambda w, x: jax.grad(lambda w: ((x @ w) ** 2).sum())(w), "sums over what a1"),
        (lambda w, x: (x @ w).max(), "does not begin with a batch of its own"),
        (lambda w, x: jnp.sort(x @ w, axis=0), "batch"),
        (lambda w, x: jnp.ones(3), "nothing that it returns depends on its data"),
    ],
)
def test_shared(fn: Callable[..., Any], said: str) -> None:
    assert said in why(fn, W, X)


def test_a_bias_is_no_batch() -> None:
    """Its gradient is a sum over the batch, though its own dimension is never summed over."""

    def fn(w: jax.Array, b: jax.Array, x: jax.Array) -> Any:
        return jax.grad(lambda w, b: ((x @ w + b) ** 2).sum(), argnums=(0, 1))(w, b)

    assert "sums over what a2 begins with" in why(fn, W, jnp.ones(20), X)


def test_state_of_examples_is_their_own_and_counters_the_copies() -> None:
    def fn(state: Any, w: jax.Array, x: jax.Array) -> Any:
        new = {"seen": state["seen"] + x @ w, "count": state["count"] + 1}
        return new, new["seen"] * 2

    state = {"seen": jnp.ones((8, 20)), "count": jnp.int32(0)}
    assert why(fn, state, W, X, donated=frozenset({0})) == ""


def test_state_that_the_batch_flows_into_is_shared() -> None:
    def fn(mean: jax.Array, x: jax.Array) -> Any:
        return 0.9 * mean + 0.1 * x.mean(0), x - mean

    assert "sums over what a1" in why(fn, jnp.ones(12), X, donated=frozenset({0}))


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("gpt-decode-tiny", True),
        ("gpt-prefill-tiny", True),
        ("mlp-tiny", False),
        ("gpt-tiny", False),
        ("convnet-tiny", False),
    ],
)
def test_models(name: str, apart: bool) -> None:
    entry = entries()[name]
    step, args = entry.build(8)
    donated = entry.donate_argnums
    donated = frozenset((donated,) if isinstance(donated, int) else donated)
    assert (why(step, *args, donated=donated) == "") is apart
