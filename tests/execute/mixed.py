"""Models whose layers are of several kinds: attention, recurrence, widths that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

BATCH, SEQ, EMBED, HEADS, VOCAB = 16, 4, 8, 2, 16
# Kinds of layers: attention, recurrence, or an MLP alone; and how wide the MLP is.
Kinds = Sequence[tuple[str, int]]
MIXED: Kinds = (("a", 12), ("r", 20), ("r", 12), ("m", 20), ("r", 12), ("a", 20))


def _dense(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) * shape[0] ** -0.5


def _layer(key: jax.Array, kind: str, width: int) -> Any:
    k = jax.random.split(key, 7)
    size = EMBED // HEADS
    mixers = {
        "a": lambda: {
            **{name: _dense(k[i], EMBED, HEADS, size) for i, name in enumerate("qkv")},
            "o": _dense(k[3], HEADS, size, EMBED),
        },
        "r": lambda: {
            "a": jnp.ones(EMBED),
            "i": _dense(k[0], EMBED, EMBED),
            "o": _dense(k[1], EMBED, EMBED),
        },
        "m": dict,
    }
    mlp = {"u": _dense(k[4], EMBED, width), "d": _dense(k[5], width, EMBED)}
    return {"mixer": mixers[kind](), "mlp": mlp, "scale": jnp.ones(EMBED)}


def _attention(p: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    q, k, v = (jnp.einsum("btd,dhe->bhte", x, p[name]) for name in "qkv")
    scores = jnp.einsum("bhqe,bhke->bhqk", q, k)
    causal = jnp.tril(jnp.ones((SEQ, SEQ), bool))
    weights = jax.nn.softmax(jnp.where(mask[:, None, None, :] & causal, scores, -1e9))
    return jnp.einsum("bhte,hed->btd", jnp.einsum("bhqk,bhke->bhqe", weights, v), p["o"])


def _recurrence(p: Any, x: jax.Array) -> jax.Array:
    keep = jax.nn.sigmoid(p["a"])

    def step(h: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = keep * h + z
        return h, h

    z = jnp.swapaxes(x @ p["i"], 0, 1)
    return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(z[0]), z)[1], 0, 1) @ p["o"]


def _dropped(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    if not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def _normed(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3)


def _apply(
    kind: str, p: Any, x: jax.Array, mask: jax.Array, key: jax.Array, rate: float
) -> jax.Array:
    first, second = jax.random.split(key)
    if kind != "m":
        h = _normed(x) * p["scale"]
        h = _attention(p["mixer"], h, mask) if kind == "a" else _recurrence(p["mixer"], h)
        x = x + _dropped(first, h, rate)
    h = jax.nn.gelu(_normed(x) @ p["mlp"]["u"]) @ p["mlp"]["d"]
    return x + _dropped(second, h, rate)


def _cross_entropy(p: Any, x: jax.Array, targets: jax.Array) -> jax.Array:
    logits = jax.nn.log_softmax(_normed(x) @ p["embed"].T)
    return -jnp.take_along_axis(logits, targets[..., None], -1).mean()


def unrolled(
    kinds: Kinds = MIXED, rate: float = 0.0, *, remat: bool = False, pieces: int = 1
) -> Callable[[], tuple[Any, Any]]:
    """A train step with its layers one after the other."""

    def loss(p: Any, batch: Any, key: jax.Array) -> jax.Array:
        x, mask = p["embed"][batch["inputs"]], batch["inputs"] != 0
        for n, (kind, _) in enumerate(kinds):
            layer = partial(_apply, kind, rate=rate)
            layer = jax.checkpoint(layer) if remat else layer
            x = layer(p["layers"][n], x, mask, jax.random.fold_in(key, n))
        return _cross_entropy(p, x, batch["targets"])

    keys = jax.random.split(jax.random.key(0), len(kinds))
    layers = [_layer(key, kind, width) for key, (kind, width) in zip(keys, kinds, strict=True)]
    return partial(_step, loss, {"layers": layers}, pieces)


def in_loops(
    stacks: Sequence[tuple[int, str, int]], rate: float = 0.0, *, pieces: int = 1
) -> Callable[[], tuple[Any, Any]]:
    """A train step with a loop for each of some stacks of layers: how many, kind, and width."""

    def loss(p: Any, batch: Any, key: jax.Array) -> jax.Array:
        x, mask = p["embed"][batch["inputs"]], batch["inputs"] != 0
        # What every layer adds to the loss, for all tokens: a sum over the batch.
        total = jnp.zeros(())
        for (_, kind, _), stack in zip(stacks, p["stacks"], strict=True):

            def layer(carry: Any, p: Any, kind: str = kind) -> tuple[Any, jax.Array]:
                x, key = carry
                key, own = jax.random.split(key)
                x = _apply(kind, p, x, mask, own, rate)
                return (x, key), (x[:, 0] ** 2).mean()

            (x, key), added = jax.lax.scan(layer, (x, key), stack)
            total += added.sum()
        return _cross_entropy(p, x, batch["targets"]) + 0.01 * total

    made = []
    for n, (count, kind, width) in enumerate(stacks):
        layers = [_layer(key, kind, width) for key in jax.random.split(jax.random.key(n), count)]
        made.append(jax.tree.map(lambda *x: jnp.stack(x), *layers))
    return partial(_step, loss, {"stacks": made}, pieces)


def _step(loss: Any, params: Any, pieces: int) -> tuple[Any, Any]:
    optimizer = optax.adamw(1e-2, eps=1e-3)

    def gradients(p: Any, batch: Any, key: jax.Array) -> Any:
        if pieces == 1:
            return jax.value_and_grad(loss)(p, batch, key)
        parts = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)

        def one(total: Any, part: Any) -> tuple[Any, None]:
            made = jax.value_and_grad(loss)(p, part, key)
            return jax.tree.map(lambda a, b: a + b / pieces, total, made), None

        zeros = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), p))
        return jax.lax.scan(one, zeros, parts)[0]

    def step(state: Any, batch: Any) -> Any:
        p, moments, key = state
        key, own = jax.random.split(key)
        value, found = gradients(p, batch, own)
        updates, moments = optimizer.update(found, moments, p)
        return (optax.apply_updates(p, updates), moments, key), value

    params = {**params, "embed": _dense(jax.random.key(7), VOCAB, EMBED)}
    tokens = jax.random.randint(jax.random.key(8), (2, BATCH, SEQ), 0, VOCAB)
    batch = {"inputs": tokens[0], "targets": tokens[1]}
    return step, ((params, optimizer.init(params), jax.random.key(9)), batch)
