"""The comparison itself: it finds what is wrong, says where, and leaves its arguments alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autoshard.verify.equality import compare_steps


def step(state: Any, x: Any) -> Any:
    return {"w": state["w"] * 0.9 + x, "n": state["n"] + 1}, {"sum": jnp.sum(state["w"])}


def state() -> Any:
    return {"w": jnp.arange(4.0), "n": jnp.zeros((), jnp.int32)}


def test_equal_steps_agree_exactly() -> None:
    report = compare_steps(step, jax.jit(step), (state(), jnp.ones(4)))
    assert report.agrees(0.0)
    assert report.steps == 5
    assert {leaf.path for leaf in report.leaves} == {"out[0]['n']", "out[0]['w']", "out[1]['sum']"}


def test_a_wrong_leaf_is_named_with_its_relative_error() -> None:
    def wrong(s: Any, x: Any) -> Any:
        new, metrics = step(s, x)
        return new, {"sum": metrics["sum"] * 1.01}

    report = compare_steps(step, wrong, (state(), jnp.ones(4)), steps=3)
    assert not report.agrees(5e-3)
    assert report.worst.path == "out[1]['sum']"
    assert report.worst.error == pytest.approx(0.01, rel=1e-3)
    assert "out[1]['sum']" in str(report).splitlines()[1]


def test_errors_are_fed_back_and_grow() -> None:
    def drifting(s: Any, x: Any) -> Any:
        return step({**s, "w": s["w"] + 1e-3}, x)

    worst = {
        leaf.path: leaf for leaf in compare_steps(step, drifting, (state(), jnp.zeros(4))).leaves
    }
    assert worst["out[0]['w']"].step == 5


def test_not_a_number_on_one_side_is_no_agreement() -> None:
    report = compare_steps(jnp.log, lambda x: jnp.log(x) * jnp.nan, (jnp.ones(2),), steps=1)
    assert report.worst.error == float("inf")
    both = compare_steps(jnp.log, jax.jit(jnp.log), (-jnp.ones(2),), steps=1)
    assert both.agrees()


def test_donated_arguments_stay_usable() -> None:
    args = (state(), jnp.ones(4))
    compare_steps(step, jax.jit(step, donate_argnums=0), args, steps=2)
    np.testing.assert_array_equal(args[0]["w"], np.arange(4.0))


def test_changes_to_modules_are_compared_and_the_callers_are_left_alone() -> None:
    def train(model: Any, x: Any) -> Any:
        model.kernel[...] = model.kernel[...] + 1.0
        return {"sum": jnp.sum(model(x))}

    def forgets(model: Any, x: Any) -> Any:
        return {"sum": jnp.sum(model(x) + jnp.sum(x))}

    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    before = np.asarray(model.kernel[...])
    args = (model, jnp.ones((1, 4)))
    assert compare_steps(train, nnx.jit(train), args, steps=2).agrees()
    report = compare_steps(train, forgets, args, steps=2)
    assert any("kernel" in leaf.path and leaf.error > 0.1 for leaf in report.leaves)
    np.testing.assert_array_equal(model.kernel[...], before)
