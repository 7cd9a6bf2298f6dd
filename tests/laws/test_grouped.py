"""The law for convolutions of groups, which XLA's partitioner gets wrong in some layouts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from autoshard import autoshard
from autoshard.verify.equality import FLOAT32_TOLERANCE, compare_steps
from tests.laws.layouts import random_plan

MESH = {"data": 2, "tensor": 4}


def convolved(x: jax.Array, w: jax.Array) -> jax.Array:
    groups = x.shape[3] // w.shape[2]
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def train_step(params: Any, batch: Any) -> Any:
    """A depthwise convolution, one of two groups, and one of points."""

    def loss(params: Any) -> Any:
        x = jax.nn.relu(convolved(batch, params["depthwise"]))
        x = jax.nn.relu(convolved(x, params["grouped"]))
        return (convolved(x, params["points"]) ** 2).mean()

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), {"loss": value, "grads": grads}


def arguments() -> tuple[Any, Any]:
    shapes = {"depthwise": (3, 3, 1, 8), "grouped": (3, 3, 4, 16), "points": (1, 1, 4, 16)}
    named = zip(shapes.items(), jax.random.split(jax.random.key(0), 3), strict=True)
    params = {name: jax.random.normal(key, shape) for (name, shape), key in named}
    return params, jnp.sin(jnp.arange(8.0 * 6 * 6 * 8)).reshape(8, 6, 6, 8)


@pytest.mark.parametrize("layout", ["data_parallel", "zero3", 0, 1, 2])
def test_gradients_of_groups(layout: str | int) -> None:
    args = arguments()
    options: dict[str, Any] = (
        {"mesh": MESH, "strategy": layout}
        if isinstance(layout, str)
        else {"plan": random_plan(train_step, args, MESH, layout)}
    )
    report = compare_steps(train_step, autoshard(train_step, **options), args, steps=2)
    assert report.agrees(FLOAT32_TOLERANCE), str(report)
