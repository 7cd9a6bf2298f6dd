"""What the functional models train with: a state, AdamW, and one step around a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]
State = dict[str, Any]
Batch = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


class Trained(Protocol):
    """A config that says how to train."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


C = TypeVar("C", bound=Trained)


def optimizer(config: Trained) -> optax.GradientTransformation:
    """AdamW with the config's constants."""
    return optax.adamw(config.learning_rate, b2=0.95, weight_decay=config.weight_decay)


def new_state(params: Params, config: Trained) -> State:
    """The state before the first step: `params`, `opt_state`, `step`."""
    return {
        "params": params,
        "opt_state": optimizer(config).init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def update(state: State, grads: Params, config: Trained) -> State:
    """The state after one step along `grads`; entries it does not know stay as they are."""
    updates, opt_state = optimizer(config).update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return state | {"params": params, "opt_state": opt_state, "step": state["step"] + 1}


def step_of(loss: Callable[[Params, Batch, C], jax.Array], config: C) -> TrainStep:
    """The train step of `loss(params, batch, config)` for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config)
        return update(state, grads, config), {"loss": value}

    return train_step


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over `labels` in nats, float32; `logits` has one more dimension, the classes."""
    wide = logits.astype(jnp.float32)
    target = jnp.take_along_axis(wide, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(wide, axis=-1) - target)


def token_batch(vocab: int, seq: int, batch_size: int, seed: int) -> Batch:
    """Random tokens: `inputs` and `targets`, int32 `[batch, seq]`, one position apart."""
    shape = (batch_size, seq + 1)
    tokens = jax.random.randint(jax.random.key(seed), shape, 0, vocab, jnp.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
