"""Layers without a skip, and a head right behind layers: one microbatch goes back by itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard import autoshard
from autoshard.verify.equality import compare_steps
from tests.execute.models import check

_WIDTH = 16
_MESH = {"pipe": 2, "data": 2, "tensor": 2}


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / 4


def _dense(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Cut behind the product, a layer there ends where none back begins."""
    for weight, bias in params["layers"]:
        x = jax.nn.relu(x @ weight + bias)
    return jnp.mean((x @ params["head"] - y) ** 2)


def _embedded(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return _dense(params, jax.nn.relu(x @ params["embed"]), y)


def _mixed(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of two kinds; the gradient of the head stands among the equations of the last."""
    x = jnp.stack([x, 2 * x], axis=1)  # a sequence
    for k, (weight, bias) in enumerate(params["layers"]):
        x = x + (jnp.tanh(x @ weight) if k % 2 else jax.nn.gelu(x @ weight + bias))
    made = jax.vmap(jax.vmap(lambda h: params["transposed"] @ h))(x)
    return jnp.mean((made - y[:, None]) ** 2)


@pytest.mark.parametrize("loss", [_dense, _embedded, _mixed])
def test_each_microbatch_goes_back_when_it_can(loss: Any) -> None:
    params = {
        "embed": _normal(1, _WIDTH, _WIDTH),
        "layers": [(_normal(k, _WIDTH, _WIDTH), _normal(k, _WIDTH)) for k in range(2, 6)],
        "head": _normal(6, _WIDTH, 4),
        "transposed": _normal(6, 4, _WIDTH),
    }
    step, args = jax.value_and_grad(loss), (params, _normal(7, 16, _WIDTH), _normal(8, 16, 4))
    sharded = autoshard(step, mesh=_MESH, microbatch=4, schedule="1f1b", time_limit_s=1)
    check(compare_steps(step, sharded, args, steps=1))
    assert sharded.plan.pipeline is not None
    assert sharded.plan.pipeline.schedule == "1f1b"
