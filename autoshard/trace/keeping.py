"""The opposite of rematerialisation: what a backward loop computes again is kept instead.

Where `jax.checkpoint` stands around the body of a `scan`, the transposed loop computes the forward
body again in front of its own. Values that both bodies compute alike, from the same slices of the
same arrays, are found by numbering: equal primitives with equal parameters of equal values are
equal values. Those worth keeping become results of the forward loop, stacked, and the backward loop
reads them slice by slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from autoshard import _compat
from autoshard.plan import units
from autoshard.trace.alike import computed_alike
from autoshard.trace.source import user_line
from autoshard.trace.surgery import (
    Env,
    Loops,
    atom,
    inlined,
    mirrored,
    size_bytes_of,
    stacking,
    with_loops,
)

# Made of what they read at no cost but memory traffic: kept, they only take room.
_VIEWS = frozenset(
    {"broadcast_in_dim", "copy", "expand_dims", "iota", "reshape", "slice", "squeeze", "transpose"}
)
# Products that sum over fewer terms take less time to compute again than their results take to
# write and to read: data sheets have 160 to 300 FLOPs for the time of a byte, a term is two FLOPs
# and a result of two bytes is moved twice. Attention's products over heads are on the one side,
# products with weights on the other.
_LONG_SUM = 256


@dataclass(frozen=True)
class Kept:
    """What one backward loop reads instead of computing it again.

    Attributes:
        loop: the user's "file:line" of the forward loop.
        length: its trips.
        residuals: how many are kept,
        size_bytes: and how large they are, over all trips, whole.
    """

    loop: str
    length: int
    residuals: int
    size_bytes: float

    def __str__(self) -> str:
        where = f" at {self.loop}" if self.loop else ""
        return (
            f"kept: the backward loop of the {self.length} layers{where} reads {self.residuals}"
            f" values, {units.size(self.size_bytes)} over all devices, that it would otherwise"
            " compute again"
        )


Saves = Callable[[_compat.JaxprEqn], bool]


def everything(eqn: _compat.JaxprEqn) -> bool:
    """Whether a result is worth keeping where memory is plentiful: all but views."""
    if eqn.primitive.name == "convert_element_type":
        return size_bytes_of(eqn.outvars[0]) < size_bytes_of(eqn.invars[0])
    return eqn.primitive.name not in _VIEWS


def products(eqn: _compat.JaxprEqn) -> bool:
    """Whether a result takes longer to compute again than to keep: products over many terms.

    Sums and maxima take little room, but they are not kept: compilers fuse them with the passes
    over what they sum up, which are made again anyway.
    """
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = _compat.shape_of(eqn.invars[0])
        terms = math.prod(int(shape[d]) for d in contracted)
        return bool(terms > _LONG_SUM)
    if eqn.primitive.name == "conv_general_dilated":
        out_features = eqn.params["dimension_numbers"].rhs_spec[0]
        shape = _compat.shape_of(eqn.invars[1])
        return bool(math.prod(shape) // max(1, shape[out_features]) > _LONG_SUM)
    return False


def keeping(
    closed: _compat.ClosedJaxpr, saves: Saves
) -> tuple[_compat.ClosedJaxpr, tuple[Kept, ...]]:
    """The program with what backward loops compute again kept by the forward loops.

    Args:
        closed: any program.
        saves: of an equation of the forward loop, whether its results are kept.

    Returns:
        The program, and what was changed in it; the program as it was, and nothing.
    """
    flat, done = with_loops(inlined(closed, remat_in_loops=True), lambda _: _pairs(saves))
    return (_compat.without_dead_code(flat), done) if done else (closed, ())


def _pairs(saves: Saves) -> Loops[Kept]:
    """What has a loop read what it computed as another did."""

    def rewrite(eqns: list[_compat.JaxprEqn], f: int, b: int) -> Kept | None:
        pair = _kept(eqns[f], eqns[b], saves) if mirrored(eqns[f], eqns[b]) else None
        if pair is None:
            return None
        eqns[f], eqns[b], said = pair
        return said

    return rewrite


def _kept(
    forward: _compat.JaxprEqn, backward: _compat.JaxprEqn, saves: Saves
) -> tuple[_compat.JaxprEqn, _compat.JaxprEqn, Kept] | None:
    """Both loops with values handed on; None where there are none."""
    first = forward.params["jaxpr"].jaxpr
    same = computed_alike(forward, backward)
    makers = {v: eqn for eqn in first.eqns for v in eqn.outvars}
    worth = {v: value for v, value in same.items() if value in makers and saves(makers[value])}
    if not worth:
        return None
    slices: Env = {value: _compat.new_var(value.aval) for value in worth.values()}
    body, slices = _reading(backward, {v: slices[value] for v, value in worth.items()}, slices)
    if not slices:
        return None
    longer, stacks = stacking(forward, tuple(slices))
    looped = backward.replace(
        invars=[*backward.invars, *(stacks[value] for value in slices)],
        params=_compat.scan_params(
            backward.params,
            _compat.ClosedJaxpr(body, backward.params["jaxpr"].consts),
            _compat.scan_counts(backward.params)[0],
        ),
    )
    size_bytes = sum(size_bytes_of(stacks[value]) for value in slices)
    return (
        longer,
        looped,
        Kept(user_line(forward), forward.params["length"], len(slices), size_bytes),
    )


def _reading(backward: _compat.JaxprEqn, replaced: Env, slices: Env) -> tuple[_compat.Jaxpr, Env]:
    """The backward body reading slices in place of some values, and the slices it does read."""
    body = backward.params["jaxpr"].jaxpr
    eqns = [
        eqn.replace(invars=[atom(replaced, v) for v in eqn.invars])
        for eqn in body.eqns
        if not all(v in replaced for v in eqn.outvars)
    ]
    results = [atom(replaced, v) for v in body.outvars]
    needed = {v for v in results if not isinstance(v, _compat.Literal)}
    live: list[_compat.JaxprEqn] = []
    for eqn in reversed(eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            live.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
    slices = {value: v for value, v in slices.items() if v in needed}
    arguments = [*body.invars, *slices.values()]
    return _compat.new_jaxpr(body, body.constvars, arguments, results, live[::-1]), slices
