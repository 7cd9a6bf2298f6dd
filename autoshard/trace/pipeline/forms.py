"""A step with its layers in loops, however they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoshard import _compat
from autoshard.errors import MicrobatchError
from autoshard.rules.registry import rule_for
from autoshard.trace.batch import paired
from autoshard.trace.pipeline.form import Form
from autoshard.trace.pipeline.joined import joined
from autoshard.trace.pipeline.kinds import merged
from autoshard.trace.pipeline.rolling import rolled, runs_of
from autoshard.trace.surgery import inlined
from autoshard.trace.walk import view

# Layers that differ are taken for one loop if that leaves noticeably less work outside of loops: by
# this part of it. Equal layers are simpler as they are.
_NOTICED = 0.1


def in_loops(big: _compat.ClosedJaxpr, small: _compat.ClosedJaxpr) -> Form:
    """A step with its layers in loops, as far as they can be.

    Loops over layers stay; those that hand the same value on, one after the other, are joined.
    Layers one after the other become loops: equal ones (`rolling`), or of several kinds (`kinds`).
    In bodies of other loops (over parts of the batch) the same.

    Args:
        big: the step for the whole batch.
        small: for a part of it.
    """
    flat = Form(inlined(big), inlined(small))
    try:
        pairs = paired(flat.big.jaxpr, flat.small.jaxpr)
    except MicrobatchError:
        return Form(big, small)
    loops = [(x, y) for x, y in pairs if x.primitive.name == "scan"]
    if any(has_layers(x, y) for x, y in loops):
        return joined(flat, [i for i, pair in enumerate(pairs) if _is_over_layers(*pair)])
    equal, mixed = _rolled(big, small), merged(big, small)
    if mixed is not None and (equal is None or _is_more_in_loops(mixed.big, equal.big)):
        return mixed
    if equal is not None:
        return equal
    return _in_bodies(flat, loops) or Form(big, small)


def has_layers(big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> bool:
    """Whether a loop carries the batch through a stack of what does not depend on it."""
    n, carry = _compat.scan_counts(big.params)
    m = n + carry
    same = [
        _compat.shape_of(x) == _compat.shape_of(y)
        for x, y in zip(big.invars, small.invars, strict=True)
    ]
    stacks = zip(big.invars[m:], same[m:], strict=True)
    weights = any(alike and len(_compat.shape_of(v)) > 1 for v, alike in stacks)
    return not all(same[n:m]) and weights


def _is_over_layers(big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> bool:
    return big.primitive.name == "scan" and has_layers(big, small)


def _rolled(big: _compat.ClosedJaxpr, small: _compat.ClosedJaxpr) -> Form | None:
    """With equal layers as loops."""
    runs = runs_of(big)
    (one, notes), (other, _) = rolled(big, runs), rolled(small, runs)
    # Lines may differ: what JAX has traced before (`jnp.where`) keeps the callers that it had then.
    return Form(one, other, notes) if notes and _trips(one) == _trips(other) else None


def _in_bodies(
    flat: Form, loops: Sequence[tuple[_compat.JaxprEqn, _compat.JaxprEqn]]
) -> Form | None:
    """With another form of the bodies of loops; None where there is none."""
    notes, kinds = list[str](), tuple[int, ...]()
    bodies: tuple[dict[int, _compat.ClosedJaxpr], ...] = ({}, {})
    for pair in loops:
        inner = in_loops(*(eqn.params["jaxpr"] for eqn in pair))
        if inner.notes:
            notes += inner.notes
            kinds = kinds or inner.kinds
            for eqn, side, body in zip(pair, bodies, (inner.big, inner.small), strict=True):
                side[id(eqn)] = body
    if not notes:
        return None
    big, small = (_with(x, side) for x, side in zip((flat.big, flat.small), bodies, strict=True))
    return Form(big, small, tuple(dict.fromkeys(notes)), kinds)


def _with(
    closed: _compat.ClosedJaxpr, bodies: dict[int, _compat.ClosedJaxpr]
) -> _compat.ClosedJaxpr:
    """A program with other bodies of some of its loops."""
    jaxpr = closed.jaxpr
    eqns = [
        eqn.replace(params={**eqn.params, "jaxpr": bodies[id(eqn)]}) if id(eqn) in bodies else eqn
        for eqn in jaxpr.eqns
    ]
    whole = _compat.new_jaxpr(jaxpr, jaxpr.constvars, jaxpr.invars, jaxpr.outvars, eqns)
    return _compat.ClosedJaxpr(whole, closed.consts)


def _is_more_in_loops(one: _compat.ClosedJaxpr, other: _compat.ClosedJaxpr) -> bool:
    """Whether noticeably more of a program's work is in loops, or as much in fewer of them."""
    outside = [_flops_outside(closed) for closed in (one, other)]
    if abs(outside[0] - outside[1]) > _NOTICED * max(outside):
        return outside[0] < outside[1]
    return len(_trips(one)) < len(_trips(other))


def _flops_outside(closed: _compat.ClosedJaxpr) -> float:
    """Of the equations of a program that are in no loop."""
    return flops_of(eqn for eqn in inlined(closed).jaxpr.eqns if eqn.primitive.name != "scan")


def flops_of(eqns: Iterable[_compat.JaxprEqn]) -> float:
    """What equations compute, without what their bodies do."""
    return sum(rule_for(view(eqn)).flops for eqn in eqns)


def _trips(closed: _compat.ClosedJaxpr) -> list[int]:
    """How often each loop of a program runs."""
    return [e.params["length"] for e in closed.jaxpr.eqns if e.primitive.name == "scan"]
