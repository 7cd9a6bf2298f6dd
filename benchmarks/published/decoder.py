"""A decoder-only transformer with the options that published runs differ in.

Everything a run may keep in another precision, recompute, or hand to a special kernel is a field
of `Config`; how it is trained is in `training.py`. Weights come in the dtype they are used in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models import parts
from benchmarks.published.flash import flash_attention

Params = dict[str, Any]

_SAVE_WEIGHT_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT = ("none", "selective", "dots", "full")


@dataclass(frozen=True)
class Config:
    """Sizes and choices of one model.

    Attributes:
        layers, embed, heads, kv_heads, head_dim, hidden, vocab, seq: sizes.
        gated: MLP with a gate (Shazeer, arXiv:2002.05202).
        tied: the embedding is the output projection.
        learned_positions: a table of positions, added to the embedding.
        compute_dtype: of activations and of weights in use.
        flash: attention by one kernel; else its scores are written out.
        flash_rate: see `flash.flash_attention`.
        causal_kernel: whether that kernel skips the masked half.
        dropout: on the scores, and on what attention and MLP add to the residual stream.
        remat: what backward computes again: "none", "selective" (scores), "dots" (all but weight
            products), "full" (layers).
        remat_last: whether a layer's last product is computed again, too. XLA drops it, since
            nobody reads it; frameworks that call the layer again do not.
    """

    layers: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    seq: int
    gated: bool = False
    tied: bool = True
    learned_positions: bool = True
    compute_dtype: str = "bfloat16"
    flash: bool = True
    flash_rate: float = 1.0
    causal_kernel: bool = True
    dropout: bool = False
    remat: str = "none"
    remat_last: bool = False


def shapes(config: Config) -> Params:
    """Every parameter's shape; layers are stacked."""
    c = config
    layer: dict[str, tuple[int, ...]] = {
        "norm1": (c.embed,),
        "query": (c.embed, c.heads, c.head_dim),
        "key": (c.embed, c.kv_heads, c.head_dim),
        "value": (c.embed, c.kv_heads, c.head_dim),
        "out": (c.heads, c.head_dim, c.embed),
        "norm2": (c.embed,),
        "up": (c.embed, c.hidden),
        "down": (c.hidden, c.embed),
    }
    if c.gated:
        layer["gate"] = (c.embed, c.hidden)
    found: Params = {
        "embed": (c.vocab, c.embed),
        "layers": {name: (c.layers, *shape) for name, shape in layer.items()},
        "final_norm": (c.embed,),
    }
    if c.learned_positions:
        found["position"] = (c.seq, c.embed)
    if not c.tied:
        found["head"] = (c.embed, c.vocab)
    return found


def parameters(config: Config) -> int:
    """How many numbers the model has."""
    return sum(math.prod(s) for s in jax.tree.leaves(shapes(config), is_leaf=_is_shape))


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def structs(config: Config, dtype: str) -> Params:
    """The parameters as `jax.ShapeDtypeStruct`s."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)),
        shapes(config),
        is_leaf=_is_shape,
    )


def _attention(weight: Params, x: jax.Array, config: Config) -> jax.Array:
    query = jnp.einsum("bse,ehd->bshd", x, weight["query"])
    key = jnp.einsum("bse,ehd->bshd", x, weight["key"])
    value = jnp.einsum("bse,ehd->bshd", x, weight["value"])
    if config.flash:
        mixed = flash_attention(
            query, key, value, causal=config.causal_kernel, rate=config.flash_rate
        )
    else:
        core = partial(_scores, dropout=config.dropout)
        if config.remat == "selective":
            core = jax.checkpoint(core, prevent_cse=False)
        mixed = core(query, key, value)
    return jnp.einsum("bshd,hde->bse", mixed, weight["out"])


def _scores(query: jax.Array, key: jax.Array, value: jax.Array, dropout: bool) -> jax.Array:
    dropped = _dropout if dropout else None
    return parts.attend(query, key, value, mask=parts.causal(query.shape[1]), after_softmax=dropped)


def _dropout(x: jax.Array) -> jax.Array:
    """What dropout reads, writes and keeps: a byte of mask per number. The mask is no random one,
    since kernels draw theirs where they use them, at no cost in memory traffic.
    """
    return jnp.where(x != 0, x * 1.1, 0).astype(x.dtype)


def _mlp(weight: Params, x: jax.Array, config: Config) -> jax.Array:
    up = x @ weight["up"]
    hidden = jax.nn.silu(x @ weight["gate"]) * up if config.gated else jax.nn.gelu(up)
    return hidden @ weight["down"]


def _layer(weight: Params, x: jax.Array, config: Config) -> jax.Array:
    after = _dropout if config.dropout else _same
    x = x + after(_attention(weight, parts.rms_norm(weight["norm1"], x), config))
    x = x + after(_mlp(weight, parts.rms_norm(weight["norm2"], x), config))
    return _needed(x) if config.remat_last else x


def _same(x: jax.Array) -> jax.Array:
    return x


@jax.custom_vjp
def _needed(x: jax.Array) -> jax.Array:
    """`x`, which backward asks for."""
    return x


_needed.defvjp(lambda x: (x, x), lambda x, grad: (grad + 0 * x,))


def loss(params: Params, tokens: jax.Array, targets: jax.Array, config: Config) -> jax.Array:
    """Mean cross-entropy of `tokens` and `targets` `[batch, seq]`, float32."""
    x = params["embed"][tokens]
    if config.learned_positions:
        x = x + params["position"]

    def layer(weight: Params, x: jax.Array) -> jax.Array:
        return _layer(weight, x, config)

    if config.remat == "dots":
        layer = jax.checkpoint(layer, policy=_SAVE_WEIGHT_PRODUCTS, prevent_cse=False)
    x = parts.run_layers(layer, params["layers"], x, scan=True, remat=config.remat == "full")
    x = parts.rms_norm(params["final_norm"], x)
    head = params["embed"].T if config.tied else params["head"]
    logits = (x @ head).astype(jnp.float32)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)
