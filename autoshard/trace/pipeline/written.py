"""Loops and branches written into a traced program: the equations that JAX would have made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard import _compat
from autoshard.trace.pipeline.repeats import is_literal
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


def zeros(aval: Any, info: Any) -> tuple[Any, list[_compat.JaxprEqn]]:
    """A variable or literal that holds zeros of a type, and the equations that make it."""
    jaxpr = _compat.retrace(lambda: jnp.zeros(aval.shape, aval.dtype), []).jaxpr
    return jaxpr.outvars[0], [eqn.replace(source_info=info) for eqn in jaxpr.eqns]


def kinds_of_layers(numbers: Sequence[int]) -> tuple[Any, np.ndarray[Any, Any]]:
    """A variable that holds the kinds of layers, and the constant."""
    value = np.array(numbers, dtype=np.int32)
    aval = _compat.retrace(lambda x: x, [value]).jaxpr.invars[0].aval
    return _compat.new_var(aval), value


def slot_of(types: list[Hashable], kind: Hashable, taken: set[int]) -> int:
    """The first of some stacks that is of a type and not taken; a new one if there is none."""
    for slot, known in enumerate(types):
        if known == kind and slot not in taken:
            break
    else:
        slot = len(types)
        types.append(kind)
    taken.add(slot)
    return slot


@dataclass
class Unit:
    """Equations that are written together.

    Attributes:
        eqns: they.
        reads: what must be there before.
    """

    eqns: list[_compat.JaxprEqn]
    reads: list[Any]

    @classmethod
    def of(cls, eqns: Sequence[_compat.JaxprEqn]) -> Unit:
        """With what the equations read that they do not make themselves."""
        made = {v for eqn in eqns for v in eqn.outvars}
        reads = (v for eqn in eqns for v in eqn.invars)
        return cls([*eqns], [v for v in reads if not is_literal(v) and v not in made])


def in_order(units: Sequence[Unit], known: set[Any]) -> list[_compat.JaxprEqn] | None:
    """The equations of units, each once what it reads is there; None where that never is."""
    eqns, pending = list[_compat.JaxprEqn](), [*units]
    while pending:
        waiting = list[Unit]()
        for unit in pending:
            if all(v in known for v in unit.reads):
                eqns += unit.eqns
                known.update(v for eqn in unit.eqns for v in eqn.outvars)
            else:
                waiting.append(unit)
        if len(waiting) == len(pending):
            return None
        pending = waiting
    return eqns


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
        consts: operands that all trips see,
        carry: that are handed on,
        xs: and that are read slice by slice.
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
