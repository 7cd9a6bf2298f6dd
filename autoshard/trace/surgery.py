"""Jaxprs taken apart and put together: what rewrites of a traced program are made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from autoshard import _compat
from autoshard.trace.source import own_line
from autoshard.trace.walk import itemsize_bytes

Env = dict[Any, Any]
Note = TypeVar("Note")


def atom(env: Env, value: Any) -> Any:
    """A variable under its new name; literals, and variables without one, stay."""
    return value if isinstance(value, _compat.Literal) else env.get(value, value)


def value_of(atom: Any, env: Env) -> Any:
    """What a variable holds where a program is evaluated; a literal holds itself."""
    return atom.val if isinstance(atom, _compat.Literal) else env[atom]


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


def inlined(
    closed: _compat.ClosedJaxpr, *, remat: bool = False, remat_in_loops: bool = False
) -> _compat.ClosedJaxpr:
    """Bodies that run exactly once spliced in place, in bodies of scans too.

    Walking and replay do the same on the fly; a rewrite needs to see producer and reader in one
    list of equations.

    Args:
        closed: any program.
        remat: whether regions of `jax.checkpoint` are opened as well: the compiler may then find
            that both passes compute the same, and keep it.
        remat_in_loops: the same of those in bodies of scans, between which it finds nothing.
    """
    env: Env = {}
    constvars, consts = list(closed.jaxpr.constvars), list(closed.consts)
    eqns: list[_compat.JaxprEqn] = []

    def splice(jaxpr: _compat.Jaxpr, env: Env, outer: _compat.JaxprEqn | None) -> list[Any]:
        for eqn in jaxpr.eqns:
            placed = eqn
            if outer is not None:
                # Bodies that JAX keeps between calls no longer know who called.
                info = _compat.under(eqn, outer, keep_line=bool(own_line(eqn)))
                placed = eqn.replace(source_info=info)
            found = _compat.inlined_body(eqn)
            if remat and eqn.primitive.name in _compat.REMAT_BODIES:
                found = *_compat.open_body(eqn.params["jaxpr"]), tuple(range(len(eqn.invars)))
            if found is None:
                if eqn.primitive.name == "scan":
                    looped = inlined(
                        eqn.params["jaxpr"], remat=remat_in_loops, remat_in_loops=remat_in_loops
                    )
                    placed = placed.replace(params={**eqn.params, "jaxpr": looped})
                eqns.extend(renamed([placed], env))
                continue
            body, values, operands = found
            held = [_compat.new_var(v.aval) for v in body.constvars]
            constvars.extend(held)
            consts.extend(values)
            inner = dict(zip(body.constvars, held, strict=True))
            inner.update(
                zip(body.invars, [atom(env, eqn.invars[k]) for k in operands], strict=True)
            )
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


def mirrored(forward: _compat.JaxprEqn, other: _compat.JaxprEqn) -> bool:
    """Whether two equations are loops of equal length that run in opposite directions."""
    if forward.primitive.name != "scan" or other.primitive.name != "scan":
        return False
    p, q = forward.params, other.params
    return bool(p["length"] == q["length"] and p["reverse"] != q["reverse"])


Loops = Callable[[list[_compat.JaxprEqn], int, int], Note | None]


def with_loops(
    closed: _compat.ClosedJaxpr, start: Callable[[_compat.Jaxpr], Loops[Note]]
) -> tuple[_compat.ClosedJaxpr, tuple[Note, ...]]:
    """The program with pairs of loops rewritten, in bodies of scans too; dead code stays.

    Args:
        closed: any program.
        start: a jaxpr as it was -> what rewrites two of its loops, given all equations as they are
            by now and the places of the first and of the second: it puts new ones there, and says
            what it did; None where it did nothing.

    Returns:
        The program, and what was done; the program as it was, and nothing.
    """
    old, done = closed.jaxpr, list[Note]()
    eqns, rewrite = list(old.eqns), start(old)
    for b, eqn in enumerate(eqns):
        if eqn.primitive.name != "scan":
            continue
        body, inside = with_loops(eqn.params["jaxpr"], start)
        if inside:
            eqns[b] = eqn.replace(params={**eqn.params, "jaxpr": body})
            done += inside
        found = (rewrite(eqns, f, b) for f in range(b))
        done += [note for note in found if note is not None]
    if not done:
        return closed, ()
    whole = _compat.new_jaxpr(old, old.constvars, old.invars, old.outvars, eqns)
    return _compat.ClosedJaxpr(whole, closed.consts), tuple(done)


def stacking(
    loop: _compat.JaxprEqn, values: Sequence[Any]
) -> tuple[_compat.JaxprEqn, dict[Any, Any]]:
    """A scan with values of its body stacked among its results.

    Args:
        loop: the scan.
        values: variables of its body; those that it stacks already are not stacked again.

    Returns:
        The loop, and for each value the variable that holds its stack.
    """
    p, closed = loop.params, loop.params["jaxpr"]
    body, n = closed.jaxpr, _compat.scan_counts(p)[1]
    stacks = {
        inside: outside
        for inside, outside in zip(body.outvars[n:], loop.outvars[n:], strict=True)
        if not isinstance(inside, _compat.Literal)
    }
    fresh = [v for v in dict.fromkeys(values) if v not in stacks]
    made = [_compat.new_var(_compat.stacked_aval(v.aval, p["length"])) for v in fresh]
    stacks.update(zip(fresh, made, strict=True))
    longer = _compat.new_jaxpr(
        body, body.constvars, body.invars, [*body.outvars, *fresh], body.eqns
    )
    whole = _compat.ClosedJaxpr(longer, closed.consts)
    params = _compat.scan_params(p, whole, _compat.scan_counts(p)[0])
    return (
        loop.replace(outvars=[*loop.outvars, *made], params=params),
        {v: stacks[v] for v in values},
    )


def variables(eqn: _compat.JaxprEqn) -> list[Any]:
    """What an equation reads, but for literals."""
    return [v for v in eqn.invars if not isinstance(v, _compat.Literal)]


def size_bytes_of(value: Any) -> float:
    """Of a whole variable or literal; 0 of what is no array."""
    shape = getattr(value.aval, "shape", None)
    return 0.0 if shape is None else math.prod(shape) * itemsize_bytes(value.aval.dtype)
