"""Loops and branches written into a traced program: the equations that JAX would have made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from autoshard import _compat
from autoshard.trace.surgery import Env, atom, inlined


def traced(
    fun: Callable[..., list[Any]],
    operands: Sequence[Any],
    results: Sequence[Any],
    info: Any,
) -> Iterator[_compat.JaxprEqn]:
    """The equations of a function.

    Args:
        fun: it.
        operands: what it takes.
        results: variables for its results.
        info: their source info.
    """
    jaxpr = inlined(_compat.retrace(fun, [v.aval for v in operands])).jaxpr
    env: Env = dict(zip(jaxpr.invars, operands, strict=True))
    names = dict(zip(jaxpr.outvars, results, strict=True))
    for eqn in jaxpr.eqns:
        made = [names.get(v) or _compat.new_var(v.aval) for v in eqn.outvars]
        reads = [atom(env, v) for v in eqn.invars]
        env.update(zip(eqn.outvars, made, strict=True))
        yield eqn.replace(invars=reads, outvars=made, source_info=info)


def stacked(*values: Any) -> list[Any]:
    """For `traced`: its operands, one after the other."""
    return [jnp.stack(values)]


def slices_of(places: Sequence[int]) -> Callable[[Any], list[Any]]:
    """For `traced`: some of a stack."""
    return lambda stack: [jax.lax.index_in_dim(stack, i, 0, keepdims=False) for i in places]


def jaxpr_of(
    arguments: Sequence[Any], results: Sequence[Any], eqns: Sequence[_compat.JaxprEqn]
) -> _compat.ClosedJaxpr:
    """A body of equations."""
    like = _empty_loop().params["jaxpr"].jaxpr
    return _compat.ClosedJaxpr(_compat.new_jaxpr(like, [], arguments, results, eqns), [])


def scan(
    body: _compat.ClosedJaxpr,
    consts: Sequence[Any],
    carry: Sequence[Any],
    xs: Sequence[Any],
    results: Sequence[Any],
    length: int,
    reverse: bool,
    like: _compat.JaxprEqn,
    info: Any,
) -> _compat.JaxprEqn:
    """A loop.

    Args:
        body: of `consts`, `carry` and a slice of each of `xs`.
        consts, carry, xs: its operands.
        results: variables for what is carried in the end, and for stacks.
        length: trips.
        reverse: whether the last slices come first.
        like: an equation that was traced in the same context.
        info: its source info.
    """
    empty = _empty_loop()
    params = {
        **_compat.scan_params(empty.params, body, len(consts), len(carry)),
        "length": length,
        "reverse": reverse,
    }
    made: _compat.JaxprEqn = empty.replace(
        invars=[*consts, *carry, *xs],
        outvars=list(results),
        params=params,
        source_info=info,
        ctx=like.ctx,
    )
    return made


def switch(
    branches: Sequence[_compat.ClosedJaxpr],
    which: Any,
    operands: Sequence[Any],
    results: Sequence[Any],
    like: _compat.JaxprEqn,
    info: Any,
) -> _compat.JaxprEqn:
    """One of several bodies, by its number."""
    number, none = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.int32, jnp.float32))
    closed = _compat.retrace(
        lambda i, x: jax.lax.switch(i, [lambda x: x, lambda x: -x], x), [number, none]
    )
    empty = next(eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "cond")
    made: _compat.JaxprEqn = empty.replace(
        invars=[which, *operands],
        outvars=list(results),
        params={**empty.params, "branches": tuple(branches)},
        source_info=info,
        ctx=like.ctx,
    )
    return made


def _empty_loop() -> _compat.JaxprEqn:
    """A scan that does nothing."""
    none = jax.ShapeDtypeStruct((1,), jnp.float32)
    closed = _compat.retrace(lambda xs: jax.lax.scan(lambda _, x: ((), None), (), xs), [none])
    loop: _compat.JaxprEqn = closed.jaxpr.eqns[0]
    return loop
