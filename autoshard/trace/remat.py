"""Rematerialisation of scanned layers: the backward loop computes a layer's residuals again.

A differentiated `scan` stacks what its transpose will read (residuals) as further results, and the
transpose, a `scan` the other way, reads them slice by slice. Here the forward loop keeps the
carries that go into each trip instead, and the backward loop runs the forward body again in front
of its own. Inside a loop nothing finds that both compute the same, so no barrier is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard import _compat
from autoshard.plan import units
from autoshard.trace.source import user_line
from autoshard.trace.surgery import (
    Env,
    Loops,
    atom,
    inlined,
    mirrored,
    readers,
    renamed,
    stacking,
    with_loops,
)

# Lines of a loop body that a note names.
_SHOWN = 4


@dataclass(frozen=True)
class Recomputed:
    """What one backward loop computes again.

    Attributes:
        loop: the user's "file:line" of the forward loop.
        length: its trips.
        residuals: how many are no longer kept,
        size_bytes: and how large they are, over all trips, whole.
        sources: the user's lines that make them.
    """

    loop: str
    length: int
    residuals: int
    size_bytes: float
    sources: tuple[str, ...]

    def __str__(self) -> str:
        where = f" at {self.loop}" if self.loop else ""
        lines = [line for line in self.sources if line]
        shown = ", ".join(lines[:_SHOWN]) + (", ..." if len(lines) > _SHOWN else "")
        return (
            f"rematerialised: the backward loop of the {self.length} layers{where} computes"
            f" {self.residuals} values again that were {units.size(self.size_bytes)} over all"
            f" devices" + (f", of {shown}" if shown else "")
        )


def rematerialised(
    closed: _compat.ClosedJaxpr,
) -> tuple[_compat.ClosedJaxpr, tuple[Recomputed, ...]]:
    """The program with residuals of its loops computed again where the backward loop reads them.

    Residuals that something else reads too are kept. What comes of models that rematerialise by
    themselves (`jax.checkpoint`) has nothing left to do.

    Returns:
        The program, and what was changed in it; the program as it was, and nothing.
    """
    flat, done = with_loops(inlined(closed), _pairs)
    return (_compat.without_dead_code(flat), done) if done else (closed, ())


def _pairs(jaxpr: _compat.Jaxpr) -> Loops[Recomputed]:
    """What has a loop compute again what it read of another."""
    reads = readers(jaxpr)

    def rewrite(eqns: list[_compat.JaxprEqn], f: int, b: int) -> Recomputed | None:
        taken = _residuals(jaxpr.eqns, reads, f, b)
        if not taken:
            return None
        said, carries = _described(eqns[f], taken), _carries(eqns[f])
        eqns[f], stacks = stacking(eqns[f], carries)
        eqns[b] = _recomputing(eqns[f], eqns[b], taken, [stacks[v] for v in carries])
        return said

    return rewrite


def _residuals(
    eqns: Sequence[_compat.JaxprEqn], reads: dict[Any, Any], f: int, b: int
) -> dict[Any, int]:
    """Stacked results of loop `f` that loop `b` is to compute again: variable -> which result.

    Args:
        eqns: as they were before anything was rewritten; `reads` speaks of those.
        reads: from `readers`.
        f: index of the first loop,
        b: and of the second.
    """
    forward, backward = eqns[f], eqns[b]
    if not mirrored(forward, backward) or forward.effects or backward.effects:
        return {}
    p = backward.params
    scanned = set(map(id, backward.invars[sum(_compat.scan_counts(p)) :]))
    found = {
        var: k
        for k, var in enumerate(forward.outvars)
        if k >= _compat.scan_counts(forward.params)[1]
        and id(var) in scanned
        and all(_is_scanned(eqns, forward, at, slot) for at, slot in reads.get(var, ()))
    }
    body = forward.params["jaxpr"].jaxpr
    made = {v for eqn in body.eqns for v in eqn.outvars}
    if not any(_made(body.outvars[k], made) for k in found.values()):
        return {}  # carries and scanned inputs only: nothing to compute again
    return found


def _made(value: Any, made: set[Any]) -> bool:
    return not isinstance(value, _compat.Literal) and value in made


def _carries(loop: _compat.JaxprEqn) -> list[Any]:
    """What goes into each trip of a loop, as its body calls it."""
    p = loop.params
    arguments = p["jaxpr"].jaxpr.invars
    consts, carried = _compat.scan_counts(p)
    return list(arguments[consts : consts + carried])


def _is_scanned(
    eqns: Sequence[_compat.JaxprEqn], forward: _compat.JaxprEqn, at: int | None, slot: int
) -> bool:
    """Whether a read of one of the loop's results is by a mirrored loop, slice by slice."""
    if at is None or not mirrored(forward, eqns[at]):
        return False
    p = eqns[at].params
    return bool(slot >= sum(_compat.scan_counts(p)))


def _recomputing(
    forward: _compat.JaxprEqn, backward: _compat.JaxprEqn, taken: dict[Any, int], saved: list[Any]
) -> _compat.JaxprEqn:
    """The backward loop with the forward body in front, in place of what it read of that loop."""
    p, q = forward.params, backward.params
    first, second = p["jaxpr"].jaxpr, q["jaxpr"].jaxpr
    env: Env = {v: _compat.new_var(v.aval) for v in (*first.constvars, *first.invars)}
    again = renamed(first.eqns, env)
    arguments = [env[v] for v in first.invars]
    (n, carried), (start, carried_too) = _compat.scan_counts(p), _compat.scan_counts(q)
    m, end = n + carried, start + carried_too

    kept, replaced = [], dict[Any, Any]()
    for outside, inside in zip(backward.invars[end:], second.invars[end:], strict=True):
        k = None if isinstance(outside, _compat.Literal) else taken.get(outside)
        if k is None:
            kept.append((outside, inside))
        else:
            replaced[inside] = atom(env, first.outvars[k])
    body = _compat.new_jaxpr(
        second,
        [*second.constvars, *(env[v] for v in first.constvars)],
        [
            *second.invars[:start],
            *arguments[:n],
            *second.invars[start:end],
            *(inside for _, inside in kept),
            *arguments[n:],
        ],
        [atom(replaced, v) for v in second.outvars],
        [*again, *_reading(second.eqns, replaced)],
    )
    looped: _compat.JaxprEqn = backward.replace(
        invars=[
            *backward.invars[:start],
            *forward.invars[:n],
            *backward.invars[start:end],
            *(outside for outside, _ in kept),
            *saved,
            *forward.invars[m:],
        ],
        params=_compat.scan_params(
            q, _compat.ClosedJaxpr(body, [*q["jaxpr"].consts, *p["jaxpr"].consts]), start + n
        ),
    )
    return looped


def _reading(eqns: Sequence[_compat.JaxprEqn], env: Env) -> Iterator[_compat.JaxprEqn]:
    """The equations with some of the variables they read replaced."""
    for eqn in eqns:
        yield eqn.replace(invars=[atom(env, v) for v in eqn.invars])


def _described(forward: _compat.JaxprEqn, taken: dict[Any, int]) -> Recomputed:
    body = forward.params["jaxpr"].jaxpr
    makers = {v: eqn for eqn in body.eqns for v in eqn.outvars}
    gone = {
        var: makers[body.outvars[k]]
        for var, k in taken.items()
        if _made(body.outvars[k], set(makers))
    }
    lines = dict.fromkeys(user_line(eqn) for eqn in gone.values())
    size = sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in gone)
    return Recomputed(
        user_line(forward), forward.params["length"], len(gone), float(size), tuple(lines)
    )
