"""Small steps for tests of the API."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

OPTIMIZER = optax.adamw(1e-2)


def create_state(key: jax.Array, width: int = 16) -> dict[str, Any]:
    one, two = jax.random.split(key)
    params = {
        "up": jax.random.normal(one, (8, width)) / 3,
        "down": jax.random.normal(two, (width, 4)) / 4,
        "bias": jnp.zeros(4),
    }
    return {"params": params, "opt": OPTIMIZER.init(params), "step": jnp.zeros((), jnp.int32)}


def batch_of(size: int = 16) -> dict[str, jax.Array]:
    x = jnp.sin(jnp.arange(size * 8.0)).reshape(size, 8)
    return {"x": x, "y": jnp.cos(x[:, :4])}


def loss_of(params: Any, batch: Any) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ params["up"])
    return jnp.mean((hidden @ params["down"] + params["bias"] - batch["y"]) ** 2)


def train_step(state: Any, batch: Any) -> Any:
    loss, grads = jax.value_and_grad(loss_of)(state["params"], batch)
    updates, opt = OPTIMIZER.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt": opt, "step": state["step"] + 1}, {"loss": loss}


def close(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether two pytrees agree leaf by leaf, relative to each leaf's largest value."""

    def one(x: Any, y: Any) -> bool:
        x, y = jnp.asarray(jax.device_get(x)), jnp.asarray(jax.device_get(y))
        if not jnp.issubdtype(x.dtype, jnp.number):
            return bool((jax.random.key_data(x) == jax.random.key_data(y)).all())
        scale = float(jnp.max(jnp.abs(x), initial=1e-30))
        return float(jnp.max(jnp.abs(x - y), initial=0.0)) <= tolerance * scale

    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(one, a, b))
    )
