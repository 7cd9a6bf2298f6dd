"""A multi-layer perceptron in plain JAX: the smallest thing worth sharding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

State = dict[str, Any]
Batch = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        sizes: width of the input, of every hidden layer, and of the output.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    sizes: tuple[int, ...] = (256, 1024, 1024, 128)
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4


CONFIGS = {
    "mlp-tiny": Config(sizes=(32, 64, 64, 16)),
    "mlp-8k": Config(sizes=(8192, 32768, 8192, 32768, 8192)),
}


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with the config's constants."""
    return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


def init(key: jax.Array, config: Config) -> State:
    """The training state.

    Args:
        key: typed PRNG key.
        config: sizes.

    Returns:
        `params["layers"][i]` holds `kernel` `[in, out]` and `bias` `[out]`, float32.
    """
    shapes = list(zip(config.sizes[:-1], config.sizes[1:], strict=True))
    keys = jax.random.split(key, len(shapes))
    layers = [
        {
            "kernel": jax.random.normal(k, (n_in, n_out)) * math.sqrt(2.0 / n_in),
            "bias": jnp.zeros(n_out),
        }
        for k, (n_in, n_out) in zip(keys, shapes, strict=True)
    ]
    params = {"layers": layers}
    return {
        "params": params,
        "opt_state": optimizer(config).init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def apply(params: dict[str, Any], x: jax.Array, config: Config) -> jax.Array:
    """The network's output `[batch, out]` for inputs `[batch, in]`."""
    dtype = jnp.dtype(config.compute_dtype)
    x = x.astype(dtype)
    for i, layer in enumerate(params["layers"]):
        x = x @ layer["kernel"].astype(dtype) + layer["bias"].astype(dtype)
        if i < len(params["layers"]) - 1:
            x = jax.nn.relu(x)
    return x


def loss(params: dict[str, Any], batch: Batch, config: Config) -> jax.Array:
    """Mean squared error, float32."""
    error = apply(params, batch["inputs"], config).astype(jnp.float32) - batch["targets"]
    return jnp.mean(jnp.square(error))


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config)
        updates, opt_state = optimizer(config).update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, {
            "loss": value
        }

    return train_step


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values; `inputs` `[batch, in]`, `targets` `[batch, out]`."""
    state_key, x_key, y_key = jax.random.split(jax.random.key(seed), 3)
    batch = {
        "inputs": jax.random.normal(x_key, (batch_size, config.sizes[0])),
        "targets": jax.random.normal(y_key, (batch_size, config.sizes[-1])),
    }
    return jax.jit(init, static_argnums=1)(state_key, config), batch


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step.

    Forward, weight gradient and input gradient are 2 FLOPs per weight and example each; the first
    layer needs no input gradient.
    """
    weights = [a * b for a, b in zip(config.sizes[:-1], config.sizes[1:], strict=True)]
    return 2 * batch_size * (3 * sum(weights) - weights[0])
