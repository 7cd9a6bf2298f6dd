"""The step that most libraries' guides write out: a loss, its gradients, an Optax update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.wild.case import Built

Loss = Callable[[Any, Any], Any]
NoisyLoss = Callable[[Any, Any, Any], Any]


def trained(
    loss_fn: Loss,
    params: Any,
    optimizer: Any,
    batch: Any,
    *,
    whole_state: bool = True,
    zeros: tuple[str, ...] = (),
) -> Built:
    """`loss_fn(params, batch)`, trained; the metrics hold the gradients."""
    import optax

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss, "grads": grads}

    return Built(step, (params, optimizer.init(params)), batch, whole_state, zeros)


def trained_with_key(
    loss_fn: NoisyLoss, params: Any, optimizer: Any, batch: Any, *, whole_state: bool = True
) -> Built:
    """`loss_fn(params, key, batch)`, trained with a new key at every step."""
    import optax

    def step(state: Any, batch: Any) -> Any:
        params, opt_state, key = state
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_fn)(params, now, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        state = (optax.apply_updates(params, updates), opt_state, key)
        return state, {"loss": loss, "grads": grads}

    state = (params, optimizer.init(params), jax.random.key(7))
    return Built(step, state, batch, whole_state)
