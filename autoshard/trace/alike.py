"""Values that two loops compute alike, found by numbering.

Equal primitives with equal parameters of equal values give equal values; nothing else is taken to
be equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from autoshard import _compat
from autoshard.trace.surgery import Env


def computed_alike(forward: _compat.JaxprEqn, backward: _compat.JaxprEqn) -> dict[Any, Any]:
    """What a backward loop computes that its forward loop has computed in the same trip.

    Args:
        forward: a scan,
        backward: and one of as many trips that runs the other way.

    Returns:
        Variables of the backward body -> variables of the forward body that hold the same value.
    """
    first, second = forward.params["jaxpr"], backward.params["jaxpr"]
    numbers: Env = {}
    table: dict[Hashable, list[Any]] = {}
    for eqn in first.jaxpr.eqns:
        key = _key(eqn, numbers)
        if key is None:
            continue
        known = table.setdefault(key, eqn.outvars)
        numbers.update(zip(eqn.outvars, known, strict=True))

    same = _arguments_alike(forward, backward, numbers)
    held = {id(c): v for c, v in zip(first.consts, first.jaxpr.constvars, strict=True)}
    for const, var in zip(second.consts, second.jaxpr.constvars, strict=True):
        if id(const) in held:
            same[var] = held[id(const)]
    found: dict[Any, Any] = {}
    for eqn in second.jaxpr.eqns:
        if any(not isinstance(v, _compat.Literal) and v not in same for v in eqn.invars):
            continue
        key = _key(eqn, same)
        if key is None or key not in table:
            continue
        pairs = dict(zip(eqn.outvars, table[key], strict=True))
        same.update(pairs)
        found.update(pairs)
    return found


def _arguments_alike(
    forward: _compat.JaxprEqn, backward: _compat.JaxprEqn, numbers: Mapping[Any, Any]
) -> dict[Any, Any]:
    """The same of the body's arguments: constants, and slices of the same arrays."""
    p, q = forward.params, backward.params
    first, second = p["jaxpr"].jaxpr, q["jaxpr"].jaxpr
    (n, carried), (start, carried_too) = _compat.scan_counts(p), _compat.scan_counts(q)
    m, end = n + carried, start + carried_too
    constant = _by_variable(forward.invars[:n], first.invars[:n])
    sliced = _by_variable(forward.invars[m:], first.invars[m:])
    made = forward.outvars[carried:], first.outvars[carried:]
    sliced.update(_by_variable(*made))
    same: dict[Any, Any] = {}
    for table, low, high in ((constant, 0, start), (sliced, end, len(backward.invars))):
        for outside, inside in zip(backward.invars[low:high], second.invars[low:high], strict=True):
            if not isinstance(outside, _compat.Literal) and outside in table:
                same[inside] = numbers.get(table[outside], table[outside])
    return same


def _by_variable(outside: Sequence[Any], inside: Sequence[Any]) -> dict[Any, Any]:
    return {
        a: b
        for a, b in zip(outside, inside, strict=True)
        if not isinstance(a, _compat.Literal) and not isinstance(b, _compat.Literal)
    }


def _key(eqn: _compat.JaxprEqn, names: Mapping[Any, Any]) -> Hashable | None:
    """What equal equations share; None of those that are like no other."""
    if eqn.effects:
        return None
    reads = tuple(
        (repr(v.val), str(v.aval)) if isinstance(v, _compat.Literal) else names.get(v, v)
        for v in eqn.invars
    )
    params = tuple((name, comparable(eqn.params[name])) for name in sorted(eqn.params))
    return eqn.primitive, reads, params


def comparable(value: Any) -> Hashable:
    """A parameter as something that is equal to its like."""
    if isinstance(value, tuple | list):
        return tuple(map(comparable, value))
    if isinstance(value, _compat.ClosedJaxpr):
        # Constants aren't in the text.
        return id(value) if value.consts else str(value)
    if isinstance(value, _compat.Jaxpr):
        return str(value)
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value  # type: ignore[no-any-return]
