"""A step in microbatches: one loop over parts of the batch, gradients accumulated, one update.

The step is traced again with a smaller batch; that trace is the body of the loop. What depends on
the batch goes inside, up to the values that are sums over it (gradients, losses, counts); those are
accumulated, and the rest of the step sees their totals. `autoshard.trace.batch` proves that the
totals are what they were.

Microbatch i holds examples i, i + k, i + 2k, ... : on a mesh whose axes split the batch every
device then finds a part of every microbatch among its own examples, and nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from autoshard import _compat
from autoshard.trace.batch import (
    SAME,
    Batch,
    Part,
    State,
    is_linear,
    is_uniform,
    paired,
    refused,
    state_of,
)
from autoshard.trace.function import Traced, jaxpr_of, rewritten
from autoshard.trace.signature import Signature
from autoshard.trace.surgery import Env, inlined, value_of

# Ops on sums that are done once per microbatch: they make a sum wider in dtype, or one of several.
_FOLDED = frozenset("add add_any transpose reshape squeeze convert_element_type".split())


def in_microbatches(traced: Traced, pieces: int) -> Traced:
    """The step with its batch taken in so many parts.

    Args:
        traced: the step as written.
        pieces: 2 or more.

    Raises:
        MicrobatchError: the batch does not divide, or the sums would not be the same; says which
            line of the user's is in the way.
    """
    small, leaves, batch = smaller(traced, pieces)
    cut = _cut(inlined(traced.closed), inlined(small), leaves, batch)
    avals = [v.aval for v in traced.closed.jaxpr.invars]
    closed = _compat.without_dead_code(_compat.retrace(lambda *args: _run(cut, args), avals))
    sums = [v for v in cut.results if cut.states[v].part is Part.SUM]
    note = (
        f"{pieces} microbatches of {batch.size // pieces} examples: {len(sums)} sums over the batch"
        " are accumulated, and the rest of the step is done once"
    )
    return rewritten(traced, closed, (note,))


def smaller(traced: Traced, pieces: int) -> tuple[_compat.ClosedJaxpr, frozenset[int], Batch]:
    """The step traced with one of so many parts of the batch.

    Returns:
        It, which inputs hold a batch by their first dimension, and how that is dealt out.

    Raises:
        MicrobatchError: the batch does not divide, or the step cannot be traced with less.
    """
    leaves, batch = _batch_leaves(traced, pieces)
    sig = traced.signature
    infos = tuple(
        replace(info, shape=(info.shape[0] // pieces, *info.shape[1:])) if i in leaves else info
        for i, info in enumerate(sig.leaves)
    )
    try:
        small, *_ = jaxpr_of(traced.fn, Signature(sig.in_tree, infos))
    except Exception as error:  # the user's function, on a batch it was not written for
        raise refused(
            f"tracing it with a batch of {batch.size // pieces} fails: {type(error).__name__}:"
            f" {error}"
        ) from error
    return small, leaves, batch


def batch_size(traced: Traced) -> int:
    """The size of the first dimension that most of the data has.

    That it is the batch is a guess that `autoshard.trace.batch` confirms or refuses.

    Raises:
        MicrobatchError: no data has dimensions.
    """
    weight: dict[int, int] = {}
    for i in _data(traced):
        shape = traced.program.inputs[i].shape
        weight[shape[0]] = weight.get(shape[0], 0) + math.prod(shape)
    if not weight:
        raise refused("no input beside the state has a dimension that could be the batch")
    return max(weight, key=lambda n: weight[n])


def _data(traced: Traced) -> list[int]:
    """Inputs that are no state, no keys, and no scalars."""
    state = {i for _, i in traced.program.aliases}
    return [
        i
        for i, leaf in enumerate(traced.program.inputs)
        if i not in state and leaf.shape and not leaf.dtype.startswith("key<")
    ]


def _batch_leaves(traced: Traced, pieces: int) -> tuple[frozenset[int], Batch]:
    """Which inputs hold a batch, by their first dimension, and how it is dealt out."""
    size = batch_size(traced)
    if size % pieces or size // pieces < 2:
        raise refused(
            f"a batch of {size} does not divide into {pieces} microbatches of 2 examples or more"
        )
    leaves = traced.program.inputs
    found = frozenset(i for i in _data(traced) if leaves[i].shape[0] == size)
    return found, Batch(size, pieces)


@dataclass
class _Cut:
    """A step cut in three: before the loop, in it, after it.

    Attributes:
        big: the whole step.
        batch: how examples are dealt out.
        states: of the whole step's variables.
        twins: variable of the microbatch's trace -> the same of the whole step's.
        before, after: equations of the whole step.
        inside: equations of a microbatch, with the numbers of the whole batch.
        made: the whole step's variables that the loop makes.
        reads: the whole step's variables that the loop reads.
        results: those it makes that are read after it.
    """

    big: _compat.ClosedJaxpr
    batch: Batch
    states: dict[Any, State] = field(default_factory=dict)
    twins: dict[Any, Any] = field(default_factory=dict)
    before: list[_compat.JaxprEqn] = field(default_factory=list)
    inside: list[_compat.JaxprEqn] = field(default_factory=list)
    after: list[_compat.JaxprEqn] = field(default_factory=list)
    made: set[Any] = field(default_factory=set)
    reads: dict[Any, Any] = field(default_factory=dict)
    results: dict[Any, Any] = field(default_factory=dict)


def _cut(
    big: _compat.ClosedJaxpr,
    small: _compat.ClosedJaxpr,
    leaves: frozenset[int],
    batch: Batch,
) -> _Cut:
    one, other = big.jaxpr, small.jaxpr
    if len(one.constvars) != len(other.constvars):
        raise refused("the function closes over something else for a smaller batch")
    cut = _Cut(big, batch)
    for x, y in zip(one.constvars, other.constvars, strict=True):
        if _compat.shape_of(x) != _compat.shape_of(y):
            raise refused("the function closes over an array that depends on the batch size")
        cut.states[x], cut.twins[y] = SAME, x
    for i, (x, y) in enumerate(zip(one.invars, other.invars, strict=True)):
        cut.states[x], cut.twins[y] = State(Part.SPLIT) if i in leaves else SAME, x
    outside: list[_compat.JaxprEqn] = []
    for x, y in paired(one, other):
        cut.twins.update(zip(y.outvars, x.outvars, strict=True))
        merged = _place(cut, x, y)
        if merged is None:
            outside.append(x)
        else:
            cut.inside.append(merged)
            cut.made.update(x.outvars)
    if not cut.inside:
        raise refused("nothing in it depends on the batch")
    _order(cut, outside, one.outvars)
    return cut


def _place(cut: _Cut, big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> _compat.JaxprEqn | None:
    """Decides where an equation goes, and notes what its results are.

    Returns:
        The equation for the loop's body; None for one outside of it.
    """
    states = [state_of(v, cut.states) for v in big.invars]
    late = [s for s in states if s.part in (Part.SUM, Part.WHOLE)]
    if late and not any(s.part is Part.SPLIT for s in states):
        if folds(big, states):
            return _inside(cut, big, small, states)
        cut.states.update((v, State(Part.WHOLE, origin=late[0].origin)) for v in big.outvars)
        return None
    here = any(v in cut.made for v in big.invars if not isinstance(v, _compat.Literal))
    if all(s.is_same for s in states) and not here:
        dims = [
            cut.batch.split_dim(x, y, big) for x, y in zip(big.outvars, small.outvars, strict=True)
        ]
        if any(d is not None for d in dims) and not is_uniform(big, dims):
            # Numbered or drawn by example: made once for all of them, and dealt out.
            known = [SAME if d is None else State(Part.SPLIT, d) for d in dims]
            cut.states.update(zip(big.outvars, known, strict=True))
            return None
        if all(d is None for d in dims):
            zero = cut.batch.step(big, small, states)[0] if _is_cheap(big) else None
            cut.states.update(zip(big.outvars, zero or [SAME] * len(dims), strict=True))
            return None
    return _inside(cut, big, small, states)


def _is_cheap(eqn: _compat.JaxprEqn) -> bool:
    """Whether an equation that does not depend on the batch may make zeros that matter."""
    return eqn.primitive.name in ("broadcast_in_dim", "convert_element_type", "reshape")


def _inside(
    cut: _Cut, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
) -> _compat.JaxprEqn:
    outs, merged = cut.batch.step(big, small, states)
    cut.states.update(zip(big.outvars, outs, strict=True))
    return merged


def folds(eqn: _compat.JaxprEqn, states: Sequence[State]) -> bool:
    """Whether an op on sums is done in every microbatch, so that what is accumulated is better.

    A sum in bfloat16 that is widened next is accumulated wide; two sums that are added next are
    accumulated as one.
    """
    name = eqn.primitive.name
    if name not in _FOLDED or any(s.part is not Part.SUM for s in states):
        return False
    before, after = _compat.dtype_of(eqn.invars[0]), _compat.dtype_of(eqn.outvars[0])
    floats = all(jnp.issubdtype(d, jnp.floating) for d in (before, after))
    if name == "convert_element_type" and not (floats and after.itemsize >= before.itemsize):
        return False
    return is_linear(eqn, states)


def _order(cut: _Cut, outside: Iterable[_compat.JaxprEqn], outvars: Sequence[Any]) -> None:
    """Outside equations go after the loop, unless the loop needs what they make."""
    own = {v for eqn in cut.inside for v in eqn.outvars}
    for eqn in cut.inside:
        for v in eqn.invars:
            if not isinstance(v, _compat.Literal) and v not in own:
                cut.reads[cut.twins[v]] = v
    needed = set(cut.reads)
    late: list[_compat.JaxprEqn] = []
    for eqn in reversed(list(outside)):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
            cut.before.append(eqn)
        else:
            late.append(eqn)
    cut.before.reverse()
    cut.after = late[::-1]
    back = {x: y for y, x in cut.twins.items()}
    for v in (*(v for eqn in cut.after for v in eqn.invars), *outvars):
        if not isinstance(v, _compat.Literal) and v in cut.made:
            cut.results[v] = back[v]


def _run(cut: _Cut, args: Sequence[Any]) -> list[Any]:
    """The step, evaluated: before, loop, after."""
    jaxpr = cut.big.jaxpr
    env: Env = dict(zip(jaxpr.constvars, cut.big.consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    _evaluate(cut.before, env)
    with _compat.as_if_traced_at(cut.inside[0]):
        env.update(_loop(cut, env))
    _evaluate(cut.after, env)
    return [value_of(v, env) for v in jaxpr.outvars]


def _loop(cut: _Cut, env: Env) -> Env:
    dealt = [x for x in cut.reads if cut.states[x].part is Part.SPLIT]
    shared = {y: env[x] for x, y in cut.reads.items() if cut.states[x].part is not Part.SPLIT}
    makers = {v: eqn for eqn in cut.inside for v in eqn.outvars}
    stacked = [x for x in cut.results if cut.states[x].part is Part.SPLIT]
    carried = [x for x in cut.results if cut.states[x].part is not Part.SPLIT]

    def body(carry: list[Any], parts: list[Any]) -> tuple[list[Any], list[Any]]:
        inner: Env = {**shared, **{cut.reads[x]: p for x, p in zip(dealt, parts, strict=True)}}
        _evaluate(cut.inside, inner)
        after = []
        for x, total in zip(carried, carry, strict=True):
            y = cut.results[x]
            with _compat.as_if_traced_at(makers[y]):
                new = jax.lax.convert_element_type(inner[y], total.dtype)
                is_sum = cut.states[x].part is Part.SUM
                after.append(jax.lax.add(total, new) if is_sum else new)
        return after, [inner[cut.results[x]] for x in stacked]

    zeros = [jnp.zeros(_compat.shape_of(x), wide(_compat.dtype_of(x))) for x in carried]
    parts = [_dealt(env[x], cut.states[x].dim, cut.batch) for x in dealt]
    totals, rows = jax.lax.scan(body, zeros, parts, length=cut.batch.pieces)
    out: Env = {
        x: jax.lax.convert_element_type(t, _compat.dtype_of(x))
        for x, t in zip(carried, totals, strict=True)
    }
    out.update(
        (x, _gathered(r, cut.states[x].dim, cut.batch)) for x, r in zip(stacked, rows, strict=True)
    )
    return out


def wide(dtype: Any) -> Any:
    """What sums of a dtype are accumulated in: microbatches must not cost digits."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return jnp.dtype("float32") if narrow else dtype


def _dealt(value: Any, dim: int, batch: Batch) -> Any:
    """`[.., batch * m, ..]` as `[pieces, .., batch / pieces * m, ..]`, dealt like cards."""
    shape = value.shape
    inner = shape[dim] // batch.size
    apart = (batch.size // batch.pieces, batch.pieces, inner)
    value = jax.lax.reshape(value, (*shape[:dim], *apart, *shape[dim + 1 :]))
    order = (dim + 1, *(d for d in range(value.ndim) if d != dim + 1))
    value = jax.lax.transpose(value, order)
    size = shape[dim] // batch.pieces
    return jax.lax.reshape(value, (batch.pieces, *shape[:dim], size, *shape[dim + 1 :]))


def _gathered(value: Any, dim: int, batch: Batch) -> Any:
    """What `_dealt` undoes."""
    shape = value.shape[1:]
    each = batch.size // batch.pieces
    apart = (batch.pieces, *shape[:dim], each, shape[dim] // each, *shape[dim + 1 :])
    value = jax.lax.reshape(value, apart)
    order = (*range(1, dim + 2), 0, *range(dim + 2, value.ndim))
    value = jax.lax.transpose(value, order)
    return jax.lax.reshape(value, (*shape[:dim], shape[dim] * batch.pieces, *shape[dim + 1 :]))


def _evaluate(eqns: Iterable[_compat.JaxprEqn], env: Env) -> None:
    for eqn in eqns:
        with _compat.as_if_traced_at(eqn):
            outs = _compat.bind(eqn, [value_of(v, env) for v in eqn.invars], dict(eqn.params))
        env.update(zip(eqn.outvars, outs, strict=True))
