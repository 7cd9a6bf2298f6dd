"""Operands of drawn sizes.

Dimensions are written as text: a letter is a size that is drawn, a digit is that size. `b66c` is a
batch of 6 x 6 images of any number of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Fill = Callable[[np.random.Generator, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Operand:
    """One operand.

    Attributes:
        dims: as text, see above.
        fill: its values, from a generator and a shape.
        below: a letter or digit that integers stay below.
    """

    dims: str
    fill: Fill
    below: str = ""

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(size_of(d, sizes) for d in self.dims)

    def value(self, rng: np.random.Generator, sizes: Mapping[str, int]) -> Any:
        made = self.fill(rng, self.shape(sizes))
        return made % size_of(self.below, sizes) if self.below else made


def size_of(letter: str, sizes: Mapping[str, int]) -> int:
    return int(letter) if letter.isdigit() else sizes[letter]


def _numbers(low: float, high: float) -> Callable[[str], Operand]:
    def fill(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        return jnp.asarray(rng.uniform(low, high, shape), jnp.float32)

    return lambda dims: Operand(dims, fill)


real = _numbers(-2, 2)
unit = _numbers(-0.9, 0.9)
positive = _numbers(0.5, 2.5)
large = _numbers(1.5, 3.5)


def whole(dims: str, below: str = "") -> Operand:
    return Operand(dims, lambda rng, s: jnp.asarray(rng.integers(0, 1000, s), jnp.int32), below)


def bits(dims: str) -> Operand:
    return Operand(dims, lambda rng, s: jnp.asarray(rng.integers(0, 2**32, s), jnp.uint32))


def truth(dims: str) -> Operand:
    return Operand(dims, lambda rng, s: jnp.asarray(rng.integers(0, 2, s), bool))


def complexes(dims: str) -> Operand:
    return Operand(
        dims, lambda rng, s: jnp.asarray(rng.normal(size=s) + 1j * rng.normal(size=s), "complex64")
    )


def keys(dims: str) -> Operand:
    return Operand(
        dims, lambda rng, s: jax.random.split(jax.random.key(int(rng.integers(99))), s or (1,))
        .reshape(s)
    )  # fmt: skip


def definite(dims: str) -> Operand:
    """Positive definite matrices, far from singular."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        x = rng.normal(size=shape)
        steps = np.diag(np.arange(1.0, 1.0 + shape[-1]))
        return jnp.asarray(0.1 * (x + np.swapaxes(x, -1, -2)) + 2 * steps, jnp.float32)

    return Operand(dims, fill)
