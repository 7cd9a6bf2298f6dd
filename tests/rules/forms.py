"""The forms in which a step holds an op: as it is, batched by `vmap`, and in reverse mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.rules.law_cases import Case
from tests.rules.taken_apart import Call

BATCH = "V"  # the letter of the dimension that `vmap` adds


def forms(case: Case, sizes: Mapping[str, int], seed: int = 0) -> Iterator[Call]:
    """Calls of a case's function, in each of its forms."""
    rng = np.random.default_rng(seed)
    args = [operand.value(rng, sizes) for operand in case.operands]
    yield case.fn, args
    if not case.no_gradient:
        yield reverse(case.fn, args)
    batches = [[o.value(rng, sizes) for _ in range(sizes[BATCH])] for o in case.operands]
    first = [jnp.stack(values) for values in batches]
    if "first" in case.batched:
        yield jax.vmap(case.fn), first
        if not case.no_gradient:
            yield reverse(jax.vmap(case.fn), first)
    if "last" in case.batched:
        last = [jnp.stack(values, axis=-1) for values in batches]
        yield jax.vmap(case.fn, in_axes=-1, out_axes=-1), last
    if "one" in case.batched and len(args) > 1:
        axes = (0, *(None,) * (len(args) - 1))
        yield jax.vmap(case.fn, axes), [first[0], *args[1:]]


def reverse(fn: Any, args: list[Any]) -> Call:
    """The pullback at `args`, of the operands and results that have derivatives."""
    wrt = [k for k, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.inexact)]

    def pullback(args: list[Any], cotangents: list[Any]) -> Any:
        def smooth(*chosen: Any) -> list[Any]:
            full = list(args)
            for k, value in zip(wrt, chosen, strict=True):
                full[k] = value
            return [o for o in jax.tree.leaves(fn(*full)) if jnp.issubdtype(o.dtype, jnp.inexact)]

        out, pull = jax.vjp(smooth, *(args[k] for k in wrt))
        return pull([c.astype(o.dtype) for c, o in zip(cotangents, out, strict=True)])

    made = jax.tree.leaves(jax.eval_shape(fn, *args))
    rng = np.random.default_rng(1)
    cotangents = [
        jnp.asarray(rng.normal(size=o.shape), o.dtype)
        for o in made
        if jnp.issubdtype(o.dtype, jnp.inexact)
    ]
    return pullback, [args, cotangents]
