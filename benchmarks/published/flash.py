"""Attention as one kernel whose scores never reach memory, to be traced, planned and priced.

A primitive with a forward and a backward, like the kernels that frameworks call (Dao et al.,
"FlashAttention", arXiv:2205.14135). It has no implementation: the machines that these runs are
priced for are not the one they are traced on. Its sharding rule is registered like any other.

`query` is `[..., queries, heads, head_dim]`, `key` and `value` `[..., keys, kv_heads, head_dim]`;
query heads that follow each other share a key head (Ainslie et al., arXiv:2305.13245).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching

from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import Draft, OpView
from autoshard.rules.registry import register

FORWARD, BACKWARD = "published_flash", "published_flash_backward"
# Matmuls of `queries x keys x head_dim` a head: scores and their use forward; backward the scores
# again, and two gradients each of both products (Dao 2023, arXiv:2307.08691, section 2.3).
_MATMULS = {FORWARD: 2, BACKWARD: 5}


def flash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = True, rate: float = 1.0
) -> jax.Array:
    """Attention by one kernel.

    Args:
        query, key, value: see the module docstring.
        causal: whether the kernel skips the masked half.
        rate: of the chip's rate for large matmuls, what the kernel reaches.
    """
    return _attention(query, key, value, causal, rate)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(
    query: jax.Array, key: jax.Array, value: jax.Array, causal: bool, rate: float
) -> jax.Array:
    out: jax.Array = _forward.bind(query, key, value, causal=causal, rate=rate)[0]
    return out


def _keep(
    query: jax.Array, key: jax.Array, value: jax.Array, causal: bool, rate: float
) -> tuple[jax.Array, Any]:
    out, log_sum = _forward.bind(query, key, value, causal=causal, rate=rate)
    return out, (query, key, value, out, log_sum)


def _back(causal: bool, rate: float, kept: Any, grad: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(_backward.bind(*kept, grad, causal=causal, rate=rate))


_attention.defvjp(_keep, _back)


def _primitive(name: str) -> Primitive:
    made = Primitive(name)
    made.multiple_results = True
    return made


_forward, _backward = _primitive(FORWARD), _primitive(BACKWARD)


@_forward.def_abstract_eval
def _(query: Any, key: Any, value: Any, **params: Any) -> list[Any]:
    return [query.update(), query.update(shape=query.shape[:-1], dtype=jnp.dtype("float32"))]


@_backward.def_abstract_eval
def _(query: Any, key: Any, value: Any, *kept: Any, **params: Any) -> list[Any]:
    return [query.update(), key.update(), value.update()]


def _batch(primitive: Primitive, operands: Any, dims: Any, **params: Any) -> tuple[Any, Any]:
    """A new leading dimension: the kernels take any number of them."""
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    moved = [
        jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(operands, dims, strict=True)
    ]
    out = primitive.bind(*moved, **params)
    return out, [0] * len(out)


for _one in (_forward, _backward):
    batching.primitive_batchers[_one] = partial(_batch, _one)


@register(FORWARD, BACKWARD)
def attention_kernel(op: OpView) -> Rule:
    """Batches and key heads are parallel; a kernel sees its sequences and heads whole."""
    query, key = op.in_shapes[:2]
    draft = Draft()
    lead = draft.parallels(query[:-3])
    heads = draft.parallel(key[-2])

    def dims(shape: tuple[int, ...]) -> tuple[int | None, ...]:
        behind = (None, heads, None)
        return (*lead, *behind[: len(shape) - len(lead)])

    pairs = math.prod(query[:-1]) * key[-3] / (2 if op.params["causal"] else 1)
    flops = 2.0 * _MATMULS[op.kind] * pairs * query[-1] / op.params["rate"]
    shapes = map(dims, op.in_shapes), map(dims, op.out_shapes)
    return draft.rule(*shapes, OpClass.MATMUL, flops)
