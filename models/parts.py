"""Parts that several models share: weights, norms, attention, and running repeated layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from autoshard.models.training import Params

T = TypeVar("T")


def weight(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Normal float32 weights whose outputs vary as much as their inputs."""
    return jax.random.normal(key, shape) / math.sqrt(fan_in)


def norm_params(size: int) -> Params:
    """Of `layer_norm` and `group_norm`: the identity."""
    return {"scale": jnp.ones(size), "bias": jnp.zeros(size)}


def layer_norm(params: Params, x: jax.Array) -> jax.Array:
    """Normalise the last dimension in float32, return in the dtype of `x`."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    normal = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
    return (normal * params["scale"] + params["bias"]).astype(x.dtype)


def rms_norm(scale: jax.Array, x: jax.Array) -> jax.Array:
    """Divide by the root mean square of the last dimension (Zhang and Sennrich 2019)."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + 1e-5) * scale).astype(x.dtype)


def group_norm(params: Params, x: jax.Array, groups: int) -> jax.Array:
    """Normalise every group of channels over space, in float32."""
    batch, height, width, channels = x.shape
    wide = x.astype(jnp.float32).reshape(batch, height, width, groups, channels // groups)
    mean = jnp.mean(wide, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=(1, 2, 4), keepdims=True)
    normal = ((wide - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return (normal * params["scale"] + params["bias"]).astype(x.dtype)


def dense(params: Params, x: jax.Array) -> jax.Array:
    """`x @ kernel + bias` in the dtype of `x`."""
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def dense_params(key: jax.Array, n_in: int, n_out: int) -> Params:
    """Of `dense`."""
    return {"kernel": weight(key, (n_in, n_out), n_in), "bias": jnp.zeros(n_out)}


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve `x` `[batch, height, width, channels]`; only the stride shrinks it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def kernel(key: jax.Array, size: int, n_in: int, n_out: int) -> jax.Array:
    """Weights of a convolution before a ReLU, `[size, size, in, out]` (He et al. 2015)."""
    return weight(key, (size, size, n_in, n_out), size * size * n_in) * math.sqrt(2)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    after_softmax: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Attention with its scores written out; softmax in float32.

    Args:
        query: `[batch, queries, heads, head_dim]`.
        key: `[batch, keys, kv_heads, head_dim]`; `kv_heads` divides `heads`, and query heads that
            follow each other share one (Ainslie et al. 2023).
        value: as `key`.
        mask: `[queries, keys]`, true where attention is allowed.
        bias: added to the scores, `[heads, queries, keys]`; only without shared heads.
        scale: of the scores; 1 / sqrt(head_dim) by default.
        after_softmax: applied to the weights, dropout for one.
    """
    batch, queries, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    shared = heads != kv_heads
    if shared:
        query = query.reshape(batch, queries, kv_heads, heads // kv_heads, head_dim)
        scores = jnp.einsum("bqhrd,bkhd->bhrqk", query, key)
    else:
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    scores = scores.astype(jnp.float32) * (1 / math.sqrt(head_dim) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if after_softmax is not None:
        weights = after_softmax(weights)
    if shared:
        mixed = jnp.einsum("bhrqk,bkhd->bqhrd", weights, value)
        return mixed.reshape(batch, queries, heads, head_dim)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def causal(length: int) -> jax.Array:
    """The mask of `attend` that lets no position see later ones."""
    positions = jnp.arange(length)
    return positions[:, None] >= positions[None, :]


def layer_params(
    init: Callable[[jax.Array], Params], key: jax.Array, count: int, scan: bool
) -> Any:
    """Parameters of `count` equal layers: stacked when they are scanned, else a list."""
    keys = jax.random.split(key, count)
    return jax.vmap(init)(keys) if scan else [init(k) for k in keys]


def run_layers(layer: Callable[[Params, T], T], params: Any, x: T, *, scan: bool, remat: bool) -> T:
    """`x` passed through all layers.

    Args:
        layer: from its parameters and the carry to the new carry.
        params: from `layer_params`.
        x: the carry.
        scan: loop over stacked parameters.
        remat: recompute a layer's activations in the backward pass.
    """
    if remat:
        layer = jax.checkpoint(layer, prevent_cse=not scan)  # a loop prevents it already
    if scan:
        return jax.lax.scan(lambda x, params: (layer(params, x), None), x, params)[0]
    for one in params:
        x = layer(one, x)
    return x
