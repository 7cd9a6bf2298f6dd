"""Unrolled layers as loops: the same numbers, the shape of a scanned model, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxpr_as_fun

from autoshard._compat import scan_counts
from autoshard.execute.replay import Replay
from autoshard.models import gpt, gpt_linen, gpt_nnx, llama, vit
from autoshard.plan.pipeline import Pipeline
from autoshard.trace.function import Traced, trace
from autoshard.trace.pipeline.layers import layers_of
from autoshard.trace.pipeline.rolling import rolled
from autoshard.trace.pipeline.step import pipelined
from autoshard.trace.signature import signature
from autoshard.trace.surgery import inlined, mirrored

LAYERS, BATCH, WIDTH = 4, 16, 8
GPT = gpt.Config(
    vocab=64, seq=8, layers=LAYERS, heads=2, embed=16, scan=False, compute_dtype="float32"
)
CHANGES: dict[str, Any] = {"layers": LAYERS, "scan": False, "compute_dtype": "float32"}
LLAMA = replace(llama.CONFIGS["llama-tiny"], **CHANGES)
VIT = replace(vit.CONFIGS["vit-tiny"], **CHANGES)
MODELS: dict[str, tuple[Any, Any]] = {
    "gpt": (gpt, GPT),
    "gpt, dropout": (gpt, replace(GPT, dropout=0.1)),
    "gpt, remat": (gpt, replace(GPT, remat=True)),
    "gpt, dropout and remat": (gpt, replace(GPT, dropout=0.1, remat=True)),
    "gpt in Linen": (gpt_linen, GPT),
    "llama": (llama, LLAMA),
    "vit": (vit, VIT),
}
Fn = Callable[..., Any]


def traced_of(fn: Fn, *args: Any) -> Traced:
    return trace(fn, signature(args, [f"arg{i}" for i in range(len(args))]), name="step")


def model(name: str) -> tuple[Traced, list[Any]]:
    module, config = MODELS[name]
    args = module.example_inputs(config, BATCH)
    return traced_of(module.make_train_step(config), *args), jax.tree.leaves(args)


def nnx_model() -> tuple[Traced, list[Any]]:
    net, optimizer, batch = gpt_nnx.example_inputs(GPT, BATCH)
    graph, state = nnx.split((net, optimizer))

    def step(state: Any, batch: Any) -> Any:
        net, optimizer = nnx.merge(graph, state)
        out = gpt_nnx.train_step(net, optimizer, batch)
        return nnx.state((net, optimizer)), out

    return traced_of(step, state, batch), jax.tree.leaves((state, batch))


def judged(traced: Traced, run: Fn, leaves: list[Any]) -> list[Any]:
    """Loss and first moments, which are the gradients; Adam's updates amplify rounding."""

    def some(*leaves: Any) -> list[Any]:
        results = jax.tree_util.tree_unflatten(traced.out_tree, run(*leaves))
        paths, _ = jax.tree_util.tree_flatten_with_path(results)
        names = [(jax.tree_util.keystr(path), value) for path, value in paths]
        return [value for name, value in names if "mu" in name or "loss" in name]

    found = jax.jit(some)(*leaves)
    assert len(found) > LAYERS
    return [np.asarray(value) for value in found]


def close(traced: Traced, run: Fn, leaves: list[Any], tolerance: float) -> None:
    before = judged(traced, jaxpr_as_fun(traced.closed), leaves)
    for a, b in zip(before, judged(traced, run, leaves), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def loops(closed: Any) -> list[Any]:
    return [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan"]


def stacks(closed: Any) -> set[Any]:
    """What is stacked for loops: `jnp.stack` is a primitive from JAX 0.10 on."""
    found = (eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "stack")
    if not hasattr(jax.lax, "stack_p"):
        joined = (eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "concatenate")
        found = (eqn for eqn in joined if eqn.params["dimension"] == 0)
    return {eqn.outvars[0] for eqn in found}


def has_layers(traced: Traced, leaves: list[Any]) -> None:
    closed, notes = rolled(traced.closed)
    assert len(notes) == 1
    assert f"rolled: the {LAYERS} equal layers at " in notes[0]
    forward, backward = loops(closed)
    assert mirrored(forward, backward)
    assert forward.params["length"] == LAYERS
    assert scan_counts(backward.params)[1] == 1
    # Nothing but weights and keys is stacked: what the layers leave behind for their backward
    # layers is read as the forward loop stacks it.
    assert stacks(closed) == {*forward.invars[sum(scan_counts(forward.params)) :]}
    close(traced, jaxpr_as_fun(closed), leaves, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_unrolled_layers_become_two_loops_that_make_the_same(name: str) -> None:
    has_layers(*model(name))


@pytest.mark.slow
def test_layers_of_nnx_modules() -> None:
    has_layers(*nnx_model())


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipe",
    [
        Pipeline(2, 4, 2, 2),
        Pipeline(4, 4, 2, 1),
        Pipeline(2, 4, 2, 2, schedule="1f1b"),
        Pipeline(2, 4, 2, 2, schedule="1f1b", dealt=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["gpt", "gpt, dropout and remat"])
def test_unrolled_layers_are_pipelined(name: str, pipe: Pipeline, devices: Any) -> None:
    traced, leaves = model(name)
    layers = layers_of(traced)
    assert layers.counts == (LAYERS, LAYERS)
    forward, backward = layers.loops.values()
    assert backward.ticked
    assert len(forward.kept) == len(backward.ticked)
    assert not forward.whole
    step = pipelined(layers, pipe)
    assert [note.split(":")[0] for note in step.notes] == ["rolled", "pipeline", "pipeline"][
        : 2 + pipe.dealt
    ]
    mesh = jax.sharding.Mesh(np.array(devices).reshape(*pipe.sizes.values()), (*pipe.sizes,))

    def run(*leaves: Any) -> list[Any]:
        return Replay({}, mesh).run(step.closed.jaxpr, step.closed.consts, leaves)

    close(traced, run, leaves, 1e-5)


# -- small programs ------------------------------------------------------------------------------

WEIGHTS = [jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / 3 for i in range(6)]
X = jax.random.normal(jax.random.key(9), (BATCH, WIDTH))


def gradient_of(forward: Fn) -> Fn:
    def step(weights: Any, x: Any) -> Any:
        # The first product is there for the first layer to have a gradient to pass on.
        return jax.value_and_grad(lambda w: (forward(w[1:], x @ w[0]) ** 2).mean())(weights)

    return step


def scaled(weights: Any, x: Any) -> Any:
    """Layers that differ in a number."""
    for i, w in enumerate(weights):
        x = x + jnp.tanh(x @ w) / (i + 1)
    return x


def sliced(weights: Any, x: Any) -> Any:
    """Layers that take their part of one array."""
    scales = jax.lax.stop_gradient(weights[0])
    for i, w in enumerate(weights):
        x = x + jnp.tanh(x @ w) * scales[i]
    return x


def masked(weights: Any, x: Any) -> Any:
    """Layers that compute the same mask, each for itself."""
    for w in weights:
        x = x + jnp.where(jnp.arange(WIDTH) > 2, x @ w, 0)
    return x


def alternating(weights: Any, x: Any) -> Any:
    """Layers of two products each, whose backward layers differ too."""
    for w, v in zip(weights[:4:2], weights[1:4:2], strict=True):
        x = x + jnp.tanh(x @ w) @ v
    return x


@pytest.mark.parametrize(
    ("forward", "trips"), [(scaled, 5), (sliced, 5), (masked, 5), (alternating, 2)]
)
def test_differences_that_a_loop_can_have(forward: Fn, trips: int) -> None:
    traced = traced_of(gradient_of(forward), WEIGHTS, X)
    closed, notes = rolled(traced.closed)
    assert len(notes) == 1
    assert [loop.params["length"] for loop in loops(closed)] == [trips, trips]
    before = jaxpr_as_fun(traced.closed)(*WEIGHTS, X)
    for a, b in zip(before, jaxpr_as_fun(closed)(*WEIGHTS, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_what_is_the_same_in_all_layers_is_not_stacked() -> None:
    closed, _ = rolled(traced_of(gradient_of(masked), WEIGHTS, X).closed)
    forward, backward = loops(closed)
    assert scan_counts(backward.params)[0] == 1
    assert all(v.aval.dtype != jnp.bool_ for v in forward.outvars)


def densely(weights: Any, x: Any) -> Any:
    """Layers that read more than the one before them."""
    before = x
    for w in weights:
        before, x = x, jnp.tanh(x @ w) + before
        before = before + 1 if w is weights[2] else before
    return x


def alike_backwards(weights: Any, x: Any) -> Any:
    """Layers of two kinds whose backward layers are of one, where JAX knows 1 - tanh**2 at once."""
    for w, v in zip(weights[:4:2], weights[1:4:2], strict=True):
        x = jnp.sin(jnp.tanh(x @ w) @ v)
    return x


def printed(weights: Any, x: Any) -> Any:
    for w in weights:
        x = jnp.tanh(x @ w)
        jax.debug.print("{x}", x=x[0, 0])
    return x


def apart(weights: Any, x: Any) -> Any:
    """Equal, but no chain."""
    return sum(jnp.tanh(x @ w) for w in weights)


def of_other_kinds(weights: Any, x: Any) -> Any:
    for fun, w in zip((jnp.tanh, jnp.sin, jnp.exp), weights, strict=False):
        x = fun(x @ w)
    return x


def of_other_widths(weights: Any, x: Any) -> Any:
    for n, w in zip((6, 4, 2), weights, strict=False):
        x = jnp.tanh(x[:, : w.shape[0]] @ w[: x.shape[1], :n])
    return x


@pytest.mark.parametrize("forward", [printed, apart, of_other_kinds, of_other_widths])
def test_what_is_no_row_of_equal_layers_is_left_alone(forward: Fn) -> None:
    closed = traced_of(lambda w, x: forward(w, x).sum(), WEIGHTS, X).closed
    assert rolled(closed) == (closed, ())


@pytest.mark.parametrize("forward", [densely, alike_backwards])
def test_layers_that_are_a_loop_in_part_make_the_same(forward: Fn) -> None:
    """Whatever is rolled of it, the numbers are the same."""
    traced = traced_of(gradient_of(forward), WEIGHTS, X)
    closed, _ = rolled(traced.closed)
    assert all(loop.params["length"] < 5 for loop in loops(closed))
    before = jaxpr_as_fun(traced.closed)(*WEIGHTS, X)
    for a, b in zip(before, jaxpr_as_fun(closed)(*WEIGHTS, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_many_layers_are_found_in_little_time() -> None:
    """One pass over the equations for each period, and one over those of the layers."""
    config = replace(GPT, layers=24)
    traced = traced_of(gpt.make_train_step(config), *gpt.abstract_inputs(config, 4))
    assert len(inlined(traced.closed).jaxpr.eqns) > 8000
    closed, notes = rolled(traced.closed)
    assert len(notes) == 1
    assert [loop.params["length"] for loop in loops(closed)] == [24, 24]
