"""Mctx: Monte Carlo tree search in JAX, all simulations in one loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained_with_key

_ACTIONS = 8


def _model(key: Any) -> Any:
    """A representation of width 32, a head for policy and value, and the next representation."""
    sizes = {"encode": (16, 32), "policy": (32, _ACTIONS), "value": (32, 1), "next": (40, 32)}
    keys = jax.random.split(key, len(sizes))
    return {
        name: jax.random.normal(k, size) / size[0] ** 0.5
        for k, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def _imagined(params: Any, _: Any, action: Any, h: Any) -> Any:
    import mctx

    seen = jnp.concatenate([h, jax.nn.one_hot(action, _ACTIONS)], -1)
    h = jnp.tanh(seen @ params["next"])
    out = mctx.RecurrentFnOutput(
        reward=h[:, 0],
        discount=jnp.full(len(h), 0.9),
        prior_logits=h @ params["policy"],
        value=(h @ params["value"])[:, 0],
    )
    return out, h


@case("mctx")
def mctx_gumbel_muzero() -> Built:
    """Gumbel MuZero's search; its policy is what the network is trained towards."""
    import mctx
    import optax

    def loss_fn(params: Any, key: Any, batch: Any) -> Any:
        h = jnp.tanh(batch @ params["encode"])
        logits, value = h @ params["policy"], (h @ params["value"])[:, 0]
        found = mctx.gumbel_muzero_policy(
            jax.lax.stop_gradient(params),
            key,
            jax.lax.stop_gradient(mctx.RootFnOutput(prior_logits=logits, value=value, embedding=h)),
            _imagined,
            num_simulations=12,
            max_depth=5,
        )
        target = jax.lax.stop_gradient(found.search_tree.node_values[:, 0])
        policy = optax.softmax_cross_entropy(logits, jax.lax.stop_gradient(found.action_weights))
        return jnp.mean(policy + (value - target) ** 2)

    x = jax.random.normal(jax.random.key(1), (16, 16))
    return trained_with_key(loss_fn, _model(jax.random.key(0)), optax.sgd(0.1), x)


@case("mctx")
def mctx_muzero() -> Built:
    """MuZero's search with noise at the root and actions sampled by visits."""
    import mctx

    def step(key: Any, batch: Any) -> Any:
        params, x = batch
        key, now = jax.random.split(key)
        h = jnp.tanh(x @ params["encode"])
        root = mctx.RootFnOutput(
            prior_logits=h @ params["policy"], value=(h @ params["value"])[:, 0], embedding=h
        )
        found = mctx.muzero_policy(params, now, root, _imagined, num_simulations=10)
        summary = found.search_tree.summary()
        return key, {"action": found.action, "visits": summary.visit_counts, "q": summary.qvalues}

    x = jax.random.normal(jax.random.key(1), (16, 16))
    return Built(step, jax.random.key(2), (_model(jax.random.key(0)), x))
