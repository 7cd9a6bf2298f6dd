"""Inference with the transformer of `gpt.py`: prefill fills a cache, decode adds one token to it.

Weights are kept in the compute dtype. These are the zoo's only steps that do not train: they take
`(params, batch)` or `(params, cache, batch)` and return `(cache, {"logits"})`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models import gpt, parts
from autoshard.models.training import Batch, Params

Cache = dict[str, jax.Array]
Out = tuple[Cache, dict[str, jax.Array]]


@dataclass(frozen=True)
class Config:
    """A model and what to do with it.

    Attributes:
        model: sizes; `model.seq` is the length of the prompt, and of the cache.
        mode: "prefill" or "decode".
    """

    model: gpt.Config
    mode: str = "decode"

    def __post_init__(self) -> None:
        if self.mode not in ("prefill", "decode"):
            raise ValueError(f"mode is {self.mode!r}, not 'prefill' or 'decode'")
        if not self.model.scan or self.model.dropout > 0:
            raise ValueError(f"gpt_serve runs scanned layers without dropout only: {self.model}")


CONFIGS = {
    f"gpt-{mode}-{size}": Config(gpt.CONFIGS[f"gpt-{size}"], mode)
    for mode in ("prefill", "decode")
    for size in ("tiny", "1.3b", "6.7b", "175b")
}


def init(key: jax.Array, config: Config) -> Params:
    """The weights alone, in the compute dtype."""
    params = gpt.init(key, config.model)["params"]
    return jax.tree.map(lambda p: p.astype(config.model.compute_dtype), params)


def empty_cache(config: Config, batch_size: int) -> Cache:
    """`key` and `value` `[layer, batch, position, head, head_dim]`, and how many are `filled`."""
    c = config.model
    shape = (c.layers, batch_size, c.seq, c.heads, c.head_dim)
    zeros = jnp.zeros(shape, c.compute_dtype)
    return {"key": zeros, "value": zeros, "filled": jnp.zeros((), jnp.int32)}


def _project(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value of `x`, `[batch, position, head, head_dim]`."""
    query = jnp.einsum("bse,ehd->bshd", x, params["query"])
    key = jnp.einsum("bse,ehd->bshd", x, params["key"])
    return query, key, jnp.einsum("bse,ehd->bshd", x, params["value"])


def _finish(params: Params, x: jax.Array, mixed: jax.Array) -> jax.Array:
    """The rest of a layer, once attention has mixed the values."""
    x = x + jnp.einsum("bshd,hde->bse", mixed, params["attention"]["out"])
    return x + gpt.mlp(params["mlp"], parts.layer_norm(params["norm2"], x))


def _logits(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, vocab]` of the last position of `x`."""
    head = params["embed"].T if config.model.tied else params["head"]
    return parts.layer_norm(params["final_norm"], x[:, -1]) @ head


def prefill(params: Params, batch: Batch, config: Config) -> Out:
    """A full cache and the next token's logits, for the prompts `tokens` `[batch, seq]`."""
    tokens = batch["tokens"]
    x = params["embed"][tokens] + params["position"][: tokens.shape[1]]
    mask = parts.causal(tokens.shape[1])

    def layer(x: jax.Array, one: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        query, key, value = _project(one["attention"], parts.layer_norm(one["norm1"], x))
        mixed = parts.attend(query, key, value, mask=mask)
        return _finish(one, x, mixed), (key, value)

    x, (key, value) = jax.lax.scan(layer, x, params["layers"])
    cache = {"key": key, "value": value, "filled": jnp.int32(tokens.shape[1])}
    return cache, {"logits": _logits(params, x, config)}


def decode(params: Params, cache: Cache, batch: Batch, config: Config) -> Out:
    """The cache with one more position, and the logits after `tokens` `[batch]`."""
    filled = cache["filled"]
    x = params["embed"][batch["tokens"]][:, None] + params["position"][filled]
    mask = (jnp.arange(config.model.seq) <= filled)[None, :]

    def layer(
        x: jax.Array, slot: tuple[Params, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        one, keys, values = slot
        query, key, value = _project(one["attention"], parts.layer_norm(one["norm1"], x))
        keys = jax.lax.dynamic_update_slice_in_dim(keys, key, filled, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(values, value, filled, axis=1)
        mixed = parts.attend(query, keys, values, mask=mask)
        return _finish(one, x, mixed), (keys, values)

    x, (key, value) = jax.lax.scan(layer, x, (params["layers"], cache["key"], cache["value"]))
    new = {"key": key, "value": value, "filled": filled + 1}
    return new, {"logits": _logits(params, x, config)}


def make_step(config: Config) -> Callable[..., Out]:
    """`prefill(params, batch)` or `decode(params, cache, batch)`, for one device."""
    if config.mode == "prefill":
        return lambda params, batch: prefill(params, batch, config)
    return lambda params, cache, batch: decode(params, cache, batch, config)


def donate_argnums(config: Config) -> tuple[int, ...]:
    """Arguments whose memory the step may take over: the cache."""
    return (1,) if config.mode == "decode" else ()


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[Any, ...]:
    """The step's arguments with values; the cache of `decode` is empty."""
    params = jax.jit(init, static_argnums=1)(jax.random.key(seed), config)
    shape = (batch_size, config.model.seq) if config.mode == "prefill" else (batch_size,)
    tokens = jax.random.randint(jax.random.key(seed), shape, 0, config.model.vocab, jnp.int32)
    if config.mode == "prefill":
        return params, {"tokens": tokens}
    return params, empty_cache(config, batch_size), {"tokens": tokens}


def abstract_inputs(config: Config, batch_size: int) -> tuple[Any, ...]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one step: all positions of a prompt, or one that sees the whole cache."""
    c = config.model
    positions = c.seq if config.mode == "prefill" else 1
    per_layer = 2 * (4 + 2 * c.mlp_ratio) * c.embed**2 + 4 * c.seq * c.embed
    return batch_size * (positions * c.layers * per_layer + 2 * c.embed * c.vocab)
