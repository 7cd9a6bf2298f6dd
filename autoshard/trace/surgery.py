"""Jaxprs taken apart and put together: what rewrites of a traced program are made with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from autoshard import _compat
from autoshard.trace.source import user_line

Env = dict[Any, Any]


def atom(env: Env, value: Any) -> Any:
    """A variable under its new name; literals, and variables without one, stay."""
    return value if isinstance(value, _compat.Literal) else env.get(value, value)


def renamed(eqns: Iterable[_compat.JaxprEqn], env: Env) -> list[_compat.JaxprEqn]:
    """The equations with results of their own, reading what `env` says.

    Args:
        eqns: in order.
        env: new names; those of the equations' results are added to it.
    """
    out: list[_compat.JaxprEqn] = []
    for eqn in eqns:
        reads = [atom(env, v) for v in eqn.invars]
        made = [_compat.new_var(v.aval) for v in eqn.outvars]
        env.update(zip(eqn.outvars, made, strict=True))
        out.append(eqn.replace(invars=reads, outvars=made))
    return out


def inlined(closed: _compat.ClosedJaxpr) -> _compat.ClosedJaxpr:
    """Bodies that run exactly once spliced in place, in bodies of scans too.

    Walking and replay do the same on the fly; a rewrite needs to see producer and reader in one
    list of equations.
    """
    env: Env = {}
    constvars, consts = list(closed.jaxpr.constvars), list(closed.consts)
    eqns: list[_compat.JaxprEqn] = []

    def splice(jaxpr: _compat.Jaxpr, env: Env, outer: _compat.JaxprEqn | None) -> list[Any]:
        for eqn in jaxpr.eqns:
            placed = eqn
            if outer is not None:
                # Bodies that JAX keeps between calls no longer know who called.
                info = _compat.under(eqn, outer, keep_line=bool(user_line(eqn)))
                placed = eqn.replace(source_info=info)
            parameter = _compat.INLINE_BODIES.get(eqn.primitive.name)
            if parameter is None or parameter not in eqn.params:
                if eqn.primitive.name == "scan":
                    looped = inlined(eqn.params["jaxpr"])
                    placed = placed.replace(params={**eqn.params, "jaxpr": looped})
                eqns.extend(renamed([placed], env))
                continue
            body, values = _compat.open_body(eqn.params[parameter])
            held = [_compat.new_var(v.aval) for v in body.constvars]
            constvars.extend(held)
            consts.extend(values)
            inner = dict(zip(body.constvars, held, strict=True))
            inner.update(zip(body.invars, [atom(env, v) for v in eqn.invars], strict=True))
            env.update(zip(eqn.outvars, splice(body, inner, placed), strict=True))
        return [atom(env, v) for v in jaxpr.outvars]

    results = splice(closed.jaxpr, env, None)
    whole = _compat.new_jaxpr(closed.jaxpr, constvars, closed.jaxpr.invars, results, eqns)
    return _compat.ClosedJaxpr(whole, consts)


def readers(jaxpr: _compat.Jaxpr) -> dict[Any, list[tuple[int | None, int]]]:
    """For each variable, (index of the equation, operand) of its reads; None for results."""
    table: dict[Any, list[tuple[int | None, int]]] = {}

    def note(atoms: Sequence[Any], index: int | None) -> None:
        for k, value in enumerate(atoms):
            if not isinstance(value, _compat.Literal):
                table.setdefault(value, []).append((index, k))

    for index, eqn in enumerate(jaxpr.eqns):
        note(eqn.invars, index)
    note(jaxpr.outvars, None)
    return table
