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
from benchmarks.published import experts
from benchmarks.published.flash import flash_attention

Params = dict[str, Any]

# What layers that are computed again keep.
_SAVED = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
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
        softmax_dtype: of written-out scores.
        fused: an activation function is one loop that keeps what it reads, not what is inside.
        dropout: on the scores, and on what attention and MLP add to the residual stream.
        remat: what backward computes again: "none", "selective" (scores), "dots" (all but weight
            products), "full" (layers).
        remat_last: whether a layer's last product is computed again, too. XLA drops it, since
            nobody reads it; frameworks that call the layer again do not.
        experts: of every other layer, the first among them; 0: all layers are dense.
        expert_group: see `experts.mlp`.
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
    softmax_dtype: str = "float32"
    fused: bool = False
    dropout: bool = False
    remat: str = "none"
    remat_last: bool = False
    experts: int = 0
    expert_group: int = 0


def _layer_shapes(c: Config) -> dict[str, tuple[int, ...]]:
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
    return layer


def shapes(config: Config) -> Params:
    """Every parameter's shape; layers are stacked."""
    c = config
    layer = _layer_shapes(c)
    found: Params = {
        "embed": (c.vocab, c.embed),
        "layers": _stacked(layer, c.layers // 2 if c.experts else c.layers),
        "final_norm": (c.embed,),
    }
    if c.experts:
        mixed = layer | experts.shapes(c.experts, c.embed, c.hidden)
        found["expert_layers"] = _stacked(mixed, c.layers // 2)
    if c.learned_positions:
        found["position"] = (c.seq, c.embed)
    if not c.tied:
        found["head"] = (c.embed, c.vocab)
    return found


def _stacked(layer: dict[str, tuple[int, ...]], count: int) -> dict[str, tuple[int, ...]]:
    return {name: (count, *shape) for name, shape in layer.items()}


def parameters(config: Config) -> int:
    """How many numbers the model has."""
    return sum(math.prod(s) for s in jax.tree.leaves(shapes(config), is_leaf=_is_shape))


def layer_weights(config: Config) -> int:
    """How many numbers a layer's matrices have."""
    return sum(math.prod(shape) for shape in _layer_shapes(config).values() if len(shape) > 1)


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
        core = partial(_scores, config=config)
        if config.remat == "selective":
            core = jax.checkpoint(core, prevent_cse=False)
        mixed = core(query, key, value)
    return jnp.einsum("bshd,hde->bse", mixed, weight["out"])


def _scores(query: jax.Array, key: jax.Array, value: jax.Array, config: Config) -> jax.Array:
    mask = parts.causal(query.shape[1])
    if config.softmax_dtype == "float32":
        dropped = _dropout if config.dropout else None
        return parts.attend(query, key, value, mask=mask, after_softmax=dropped)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * config.head_dim**-0.5, key)
    scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)


def _dropout(x: jax.Array) -> jax.Array:
    """What dropout reads, writes and keeps: a byte of mask per number. The mask is no random one,
    since kernels draw theirs where they use them, at no cost in memory traffic.
    """
    return jnp.where(x != 0, x * 1.1, 0).astype(x.dtype)


def _mlp(weight: Params, x: jax.Array, config: Config) -> jax.Array:
    if "router" in weight:
        return experts.mlp(weight, x, config.expert_group)
    activate = _gated if config.gated else jax.nn.gelu
    if config.fused:
        activate = jax.checkpoint(activate, prevent_cse=False)
    inputs = [x @ weight[name] for name in ("gate", "up") if name in weight]
    hidden: jax.Array = activate(*inputs)
    return hidden @ weight["down"]


def _gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


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

    if config.remat in _SAVED:
        layer = jax.checkpoint(layer, policy=_SAVED[config.remat], prevent_cse=False)

    def block(weights: tuple[Params, ...], x: jax.Array) -> jax.Array:
        for weight in weights:
            x = layer(weight, x)
        return x

    kinds = [kind for kind in ("expert_layers", "layers") if kind in params]
    stacks = tuple(params[kind] for kind in kinds)
    x = parts.run_layers(block, stacks, x, scan=True, remat=False)
    x = parts.rms_norm(params["final_norm"], x)
    head = params["embed"].T if config.tied else params["head"]
    logits = (x @ head).astype(jnp.float32)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)
