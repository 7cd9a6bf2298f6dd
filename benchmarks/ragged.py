"""Train steps in which nothing repeats: every layer has another width, another make, another skip.

What repetition saves is no help here, so how planning grows with a program shows. Equal seeds give
equal programs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# A layer adds one of so many before the last to what it makes.
_REACH = 12
# Widths; not every axis divides all of them.
_WIDTHS = range(256, 1025, 8)

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Any]
Step = Callable[[State, Any], tuple[State, Any]]


@dataclass(frozen=True)
class Make:
    """One kind of layer.

    Attributes:
        shapes: of its weights, from (width read, width made, some other width).
        apply: (weights, what it reads [batch, length, width read]) -> what it makes.
    """

    shapes: Callable[[int, int, int], Shapes]
    apply: Callable[[Any, Any], Any]


def _mlp(w: Any, x: Any) -> Any:
    return jax.nn.gelu(x @ w["up"] + w["bias"]) @ w["down"]


def _gated(w: Any, x: Any) -> Any:
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * w["scale"]
    return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def _attention(w: Any, x: Any) -> Any:
    q, k, v = (jnp.einsum("bld,dhc->bhlc", x, w[name]) for name in ("q", "k", "v"))
    scores = jnp.einsum("bhlc,bhmc->bhlm", q, k) / q.shape[-1] ** 0.5
    length = x.shape[1]
    seen = jnp.tril(jnp.ones((length, length), bool))
    mixed = jnp.einsum("bhlm,bhmc->bhlc", jax.nn.softmax(jnp.where(seen, scores, -1e9)), v)
    return jnp.einsum("bhlc,hcd->bld", mixed, w["out"])


def _convolved(w: Any, x: Any) -> Any:
    taps = w["taps"].shape[0]
    padded = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    mixed = sum(padded[:, i : i + x.shape[1]] * w["taps"][i] for i in range(taps))
    return jnp.tanh(mixed) @ w["out"]


def _split(w: Any, x: Any) -> Any:
    half = x.shape[-1] // 2
    left, right = x[..., :half], x[..., half:]
    joined = jnp.concatenate([jnp.sin(left), jax.nn.sigmoid(right), left], -1)
    return joined @ w["out"]


def _pooled(w: Any, x: Any) -> Any:
    far = jnp.cumsum(x, 1) / jnp.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
    weight = jax.nn.softmax((x * w["key"]).sum(-1), -1)
    return far @ w["far"] + (weight[..., None] * x).sum(1, keepdims=True) @ w["all"]


MAKES = (
    Make(lambda a, b, c: {"up": (a, 2 * c), "bias": (2 * c,), "down": (2 * c, b)}, _mlp),
    Make(lambda a, b, c: {"scale": (a,), "gate": (a, c), "up": (a, c), "down": (c, b)}, _gated),
    Make(
        lambda a, b, c: {
            **dict.fromkeys(("q", "k", "v"), (a, 4 + c // 64, 64)),
            "out": (4 + c // 64, 64, b),
        },
        _attention,
    ),
    Make(lambda a, b, c: {"taps": (2 + c % 3, a), "out": (a, b)}, _convolved),
    Make(lambda a, b, c: {"out": (a + a // 2, b)}, _split),
    Make(lambda a, b, c: {"key": (a,), "far": (a, b), "all": (a, b)}, _pooled),
)


def _turned(x: Any) -> Any:
    return jnp.swapaxes(jnp.sort(jnp.swapaxes(x, -1, -2), axis=-1), -1, -2)


# Small ops: no weights, same shape.
SMALL: tuple[Callable[[Any], Any], ...] = (
    jnp.sin,
    jnp.tanh,
    jax.nn.softplus,
    lambda x: x - x.mean(-1, keepdims=True),
    lambda x: x / (1e-3 + jnp.abs(x).max(1, keepdims=True)),
    lambda x: jnp.roll(x, 3, axis=-1),
    lambda x: jnp.flip(x, axis=1),
    lambda x: jnp.where(x > 0, x, 0.1 * x),
    lambda x: jnp.cumsum(x, axis=1),
    lambda x: jnp.concatenate([x[..., 5:], x[..., :5]], -1),
    lambda x: x * jax.nn.softmax(x.sum(-1), axis=-1)[..., None],
    lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0))),
    lambda x: jnp.einsum("blc,bmc->blm", x, x).mean(-1, keepdims=True) + x,
    _turned,
)


def layered(layers: int, batch: int = 64, length: int = 256, seed: int = 0) -> tuple[Step, Any]:
    """A train step with Adam, and its arguments' shapes.

    Args:
        layers: how many; about 100 equations each.
        batch, length: of the data.
        seed: of what layers are.
    """
    rng = random.Random(seed)
    widths = [rng.choice(_WIDTHS) for _ in range(layers + 1)]
    makes = [rng.choice(MAKES) for _ in range(layers)]
    skips = [rng.randrange(max(0, i - _REACH), i + 1) for i in range(layers)]
    shapes = [
        {**make.shapes(a, b, rng.choice(_WIDTHS)), "skip": (widths[skip], b)}
        for make, skip, a, b in zip(makes, skips, widths, widths[1:], strict=False)
    ]

    def loss(params: Any, x: Any) -> Any:
        made = [x]
        for w, make, skip in zip(params, makes, skips, strict=True):
            made.append(make.apply(w, made[-1]) + made[skip] @ w["skip"])
        return jnp.mean(made[-1] ** 2)

    state, data = _abstract(shapes), _data(batch, length, widths[0])
    return _trained(loss), (state, data)


def small(ops: int, batch: int = 256, length: int = 64, seed: int = 0) -> tuple[Step, Any]:
    """A train step of small ops in no order, a product now and then, and its arguments' shapes.

    Args:
        ops: how many, each a few equations.
        batch, length: of the data.
        seed: of what they are.
    """
    rng = random.Random(seed)
    chosen = [rng.choice(SMALL) if rng.random() < 0.9 else None for _ in range(ops)]
    skips = [rng.randrange(max(0, i - _REACH), i + 1) for i in range(ops)]
    widths = [rng.choice(_WIDTHS)]
    shapes: list[Shapes] = []
    for op in chosen:
        widths.append(widths[-1] if op else rng.choice(_WIDTHS))
        shapes.append({} if op else {"out": (widths[-2], widths[-1])})

    def loss(params: Any, x: Any) -> Any:
        made = [x]
        for w, op, skip in zip(params, chosen, skips, strict=True):
            new = op(made[-1]) if op else made[-1] @ w["out"]
            made.append(new + made[skip] if made[skip].shape == new.shape else new)
        return jnp.mean(made[-1] ** 2)

    state, data = _abstract(shapes), _data(batch, length, widths[0])
    return _trained(loss), (state, data)


def _abstract(shapes: list[Shapes]) -> State:
    def leaves() -> Any:
        return [
            {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in each.items()} for each in shapes
        ]

    count = jax.ShapeDtypeStruct((), jnp.int32)
    return {"params": leaves(), "mean": leaves(), "square": leaves(), "step": count}


def _data(batch: int, length: int, width: int) -> Any:
    return jax.ShapeDtypeStruct((batch, length, width), jnp.float32)


def _trained(loss: Callable[[Any, Any], Any]) -> Step:
    """Adam on a loss."""

    def step(state: State, x: Any) -> tuple[State, Any]:
        value, grads = jax.value_and_grad(loss)(state["params"], x)
        count = state["step"] + 1
        each = jax.tree.map
        mean = each(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], grads)
        square = each(lambda v, g: 0.95 * v + 0.05 * g * g, state["square"], grads)
        rate = 1e-3 / (1 - 0.9 ** count.astype(jnp.float32))
        params = each(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), state["params"], mean, square
        )
        return {"params": params, "mean": mean, "square": square, "step": count}, value

    return step
