"""The updates that published runs train with; constants cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]
Shape = tuple[int, ...]

# Adafactor keeps whole moments of parameters whose matrices are smaller (optax.adafactor).
_LEAST_FACTORED = 128


@dataclass(frozen=True)
class Optimizer:
    """One way to update.

    Attributes:
        moments: what is kept of a parameter of a shape, by name.
        update: from weight, gradient and moments, float32, to the new weight and moments.
    """

    moments: Callable[[Shape], dict[str, Shape]]
    update: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def _adam_moments(shape: Shape) -> dict[str, Shape]:
    return {"mean": shape, "square": shape}


def _adam(
    weight: jax.Array, grad: jax.Array, mean: jax.Array, square: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Kingma and Ba, arXiv:1412.6980, with decay."""
    mean = 0.9 * mean + 0.1 * grad
    square = 0.95 * square + 0.05 * grad * grad
    new = weight - 1e-4 * (mean / (jnp.sqrt(square) + 1e-8) + 0.1 * weight)
    return new, {"mean": mean, "square": square}


def _adafactor_moments(shape: Shape) -> dict[str, Shape]:
    if len(shape) < 2 or min(shape[-2:]) < _LEAST_FACTORED:
        return {"square": shape}
    return {"rows": shape[:-1], "columns": (*shape[:-2], shape[-1])}


def _adafactor(
    weight: jax.Array, grad: jax.Array, **kept: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Shazeer and Stern, arXiv:1804.04235, algorithm 4 without clipping."""
    found = grad * grad + 1e-30
    if "square" in kept:
        square = 0.95 * kept["square"] + 0.05 * found
        return weight - 1e-4 * grad * jax.lax.rsqrt(square), {"square": square}
    rows = 0.95 * kept["rows"] + 0.05 * jnp.mean(found, axis=-1)
    columns = 0.95 * kept["columns"] + 0.05 * jnp.mean(found, axis=-2)
    level = jax.lax.rsqrt(rows / jnp.mean(rows, axis=-1, keepdims=True))
    scaled = grad * level[..., None] * jax.lax.rsqrt(columns)[..., None, :]
    return weight - 1e-4 * scaled, {"rows": rows, "columns": columns}


OPTIMIZERS = {
    "adam": Optimizer(_adam_moments, _adam),
    "adafactor": Optimizer(_adafactor_moments, _adafactor),
}
