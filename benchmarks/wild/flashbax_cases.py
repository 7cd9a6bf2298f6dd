"""Flashbax: replay buffers as pytrees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


@case("flashbax")
def flashbax_prioritised() -> Built:
    """Q-learning from a prioritised buffer: add, sample by a sum tree, train, set priorities."""
    import flashbax as fbx

    buffer = fbx.make_prioritised_flat_buffer(
        max_length=64, min_length=8, sample_batch_size=16, add_batch_size=8
    )

    def td(params: Any, pair: Any) -> Any:
        def q(x: Any) -> Any:
            return jnp.tanh(x @ params["in"]) @ params["out"]

        now = jnp.take_along_axis(q(pair.first["x"]), pair.first["a"][:, None], -1)[:, 0]
        return now - jax.lax.stop_gradient(pair.first["r"] + 0.9 * q(pair.second["x"]).max(-1))

    def step(state: Any, new: Any) -> Any:
        params, held, key = state
        key, a, b = jax.random.split(key, 3)
        fresh = {**new, "x": new["x"] + jax.random.normal(a, new["x"].shape)}
        held = buffer.add(held, fresh)
        drawn = buffer.sample(held, b)

        def loss_fn(params: Any) -> Any:
            error = td(params, drawn.experience)
            return jnp.mean(error**2), error

        (loss, error), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        held = buffer.set_priorities(held, drawn.indices, jnp.abs(error) + 1e-3)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return (params, held, key), {"loss": loss, "grads": grads, "indices": drawn.indices}

    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {"in": jax.random.normal(a, (8, 32)) / 3, "out": jax.random.normal(b, (32, 4)) / 6}
    new = {
        "x": jax.random.normal(c, (8, 8)),
        "a": jnp.arange(8) % 4,
        "r": jnp.linspace(-1.0, 1.0, 8),
    }
    held = buffer.init(jax.tree.map(lambda x: x[0], new))
    for _ in range(3):
        held = buffer.add(held, new)
    return Built(step, (params, held, jax.random.key(1)), new)
