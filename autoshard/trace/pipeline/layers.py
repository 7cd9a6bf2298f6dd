"""Loops over a step's layers that may be cut into stages: found, and proven.

A loop over stacked layers carries the batch from layer to layer. Where the sharding rules of its
body prove that no example meets another (`autoshard.trace.batch`), the stack may be cut into stages
and the batch into microbatches. The backward loop of the same layers is one more such loop in the
other direction; what it reads of the forward loop are the values of its own microbatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from autoshard import _compat
from autoshard.errors import MicrobatchError, PipelineError
from autoshard.program.ir import Program
from autoshard.trace.batch import Part, State, paired
from autoshard.trace.function import Traced, rewritten
from autoshard.trace.microbatch import batch_size, smaller
from autoshard.trace.pipeline.forms import flops_of, has_layers, in_loops
from autoshard.trace.pipeline.loop import Dealt, Loop, Loops, all_loops, operand_state
from autoshard.trace.pipeline.passage import Step, passage_of
from autoshard.trace.source import user_line
from autoshard.trace.surgery import inlined, mirrored, readers, variables

Reform = Callable[[_compat.ClosedJaxpr], _compat.ClosedJaxpr]


@dataclass(frozen=True)
class Layers:
    """The loops over a step's layers that may be cut into stages; from `layers_of`.

    Attributes:
        traced: the step as written.
        closed: in the form that is to be pipelined.
        batch: examples in it.
        loops: by the index of their equation.
        notes: what was done to the step to have them.
        flops: of each layer, there and back, where layers are of several kinds.
    """

    traced: Traced
    closed: _compat.ClosedJaxpr
    batch: int
    loops: Mapping[int, Loops]
    notes: tuple[str, ...] = ()
    flops: tuple[float, ...] = ()

    @property
    def program(self) -> Program:
        """What is cut, for planning; as it is before."""
        return rewritten(self.traced, self.closed, ()).program

    @property
    def counts(self) -> tuple[int, ...]:
        """How many layers each loop has."""
        return tuple(int(loop.big.params["length"]) for loop in all_loops(self.loops))

    @property
    def no_1f1b(self) -> str:
        """Why no microbatch can go back before all of them went forward; empty if one can."""
        mirrored = [loop for loop in all_loops(self.loops) if loop.ticked]
        if any(loop.passage for loop in mirrored):
            return ""
        return next((loop.no_passage for loop in mirrored), "there is no way back")


def layers_of(traced: Traced, reform: Reform = lambda closed: closed) -> Layers:
    """Find the loops over layers, and prove that the batch may pass through them in parts.

    The step is traced once more with a part of the batch: where the two traces differ, there is the
    batch, and what has its size.

    Args:
        traced: the step as written.
        reform: makes the form of it that is to be pipelined.

    Raises:
        PipelineError: there are none, or the examples of the batch meet in one; says which line of
            the user's is in the way.
    """
    try:
        size = batch_size(traced)
        pieces = next((p for p in range(2, size // 2 + 1) if size % p == 0), 2)
        small, _, batch = smaller(traced, pieces)
    except MicrobatchError as error:
        raise PipelineError(_about(error)) from error
    form = in_loops(traced.closed, small)
    one, other = (inlined(reform(x), remat_in_loops=True) for x in (form.big, form.small))
    loops = _loops(one.jaxpr, other.jaxpr, Dealt(batch.size, batch.pieces))
    if not loops:
        raise PipelineError(
            "the step has no loop (`jax.lax.scan`) over stacked layers, and no equal layers one"
            " after the other"
        )
    if not form.kinds:
        return Layers(traced, one, batch.size, loops, form.notes)
    loops = _with_kinds(loops, one, np.array(form.kinds))
    flops = sum(_flops_by_kind(x) for x in all_loops(loops) if x.kinds is not None)
    each = tuple(float(flops[kind]) for kind in form.kinds)
    return Layers(traced, one, batch.size, loops, form.notes, each)


def _with_kinds(
    loops: Mapping[int, Loops], closed: _compat.ClosedJaxpr, kinds: Any
) -> dict[int, Loops]:
    """The loops; those over layers of several kinds with the operand that says which each is.

    A loop of the user's own may switch by a table as well, but 0 is one of its layers.
    """
    jaxpr = closed.jaxpr
    tables = {
        v
        for v, value in zip(jaxpr.constvars, closed.consts, strict=True)
        if _compat.shape_of(v) == kinds.shape and np.array_equal(np.asarray(value), kinds)
    }
    found = dict[int, Loops]()
    for i, loop in loops.items():
        if isinstance(loop, Loop):
            own = (k for k, branches in _switches(loop) if _is_nothing(branches[0]))
            which = next((k for k in own if loop.big.invars[k] in tables), None)
            found[i] = replace(loop, kinds=which)
        else:
            found[i] = _with_kinds(loop, jaxpr.eqns[i].params["jaxpr"], kinds)
    return found


def _switches(loop: Loop) -> Iterator[tuple[int, Sequence[_compat.ClosedJaxpr]]]:
    """Branches in the body of a loop that an operand says which to take of: it, and they."""
    body = loop.big.params["jaxpr"].jaxpr
    for eqn in body.eqns:
        if eqn.primitive.name == "cond" and eqn.invars[0] in body.invars:
            yield body.invars.index(eqn.invars[0]), eqn.params["branches"]


def _is_nothing(branch: _compat.ClosedJaxpr) -> bool:
    """Whether a branch hands on what it gets, and makes nothing else but constants."""
    return not any(variables(eqn) for eqn in branch.jaxpr.eqns)


def _flops_by_kind(loop: Loop) -> Any:
    """Of each branch of the switch over its kinds."""
    switches = [branches for k, branches in _switches(loop) if k == loop.kinds]
    return np.sum([[_flops(branch) for branch in branches] for branches in switches], axis=0)


def _flops(closed: _compat.ClosedJaxpr) -> float:
    return flops_of(_compat.all_equations(closed.jaxpr))


def _about(error: ValueError) -> str:
    return str(error).replace("the step cannot be taken in microbatches", "no pipeline")


# -- which loops, and what they read and make ----------------------------------------------------


def _loops(big: _compat.Jaxpr, small: _compat.Jaxpr, dealt: Dealt) -> dict[int, Loops]:
    """The loops that can be pipelined, in bodies of others too, by the index of their equation.

    Raises:
        PipelineError: the examples of the batch meet in one.
    """
    one = [(i, eqn) for i, eqn in enumerate(big.eqns) if eqn.primitive.name == "scan"]
    other = [eqn for eqn in small.eqns if eqn.primitive.name == "scan"]
    if len(one) != len(other):
        raise PipelineError("the step has other loops for a smaller batch")
    zeros = _zeros(big)
    makers: list[dict[Any, _compat.JaxprEqn]] = [
        {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars} for jaxpr in (big, small)
    ]
    found, around = dict[int, Loop](), dict[int, Loops]()
    for (i, x), y in zip(one, other, strict=True):
        if not has_layers(x, y):
            inner = _loops(x.params["jaxpr"].jaxpr, y.params["jaxpr"].jaxpr, dealt)
            if inner:
                around[i] = inner
            continue
        line, own = user_line(x), _dealt_to(x, y, dealt)
        try:
            ins = [
                operand_state(v, own.split_dim(v, w, x), zeros)
                for v, w in zip(x.invars, y.invars, strict=True)
            ]
            outs, merged = own.step(x, y, ins)
        except MicrobatchError as error:
            raise PipelineError(f"the layers at {line}: {_about(error)}") from error
        body = _results_in_branches(merged.params["jaxpr"].jaxpr)
        inside = _results_of(merged.params["jaxpr"].jaxpr)
        numbered = {v: eqn for v, eqn in own.numbered.items() if v in inside}
        if hidden := [eqn for v, eqn in numbered.items() if v not in body]:
            raise PipelineError(
                f"{hidden[0].primitive.name} makes something for every example inside a loop in"
                f" the layers ({user_line(hidden[0])})"
            )
        spread = {
            k: (makers[0][v], makers[1][w])
            for k, (v, w) in enumerate(zip(x.invars, y.invars, strict=True))
            if k < _compat.scan_counts(x.params)[0]
            and ins[k].part is Part.SPLIT  # and so no literal
            and _is_spread(makers[0].get(v), makers[1].get(w))
        }
        found[i] = Loop(
            x,
            merged,
            tuple(ins),
            tuple(outs),
            frozenset(numbered),
            spread,
            added=frozenset(_added(merged, ins, outs)),
        )
    return around | _with_passages(big, small, dealt, _linked(big, found), zeros)


def _added(loop: _compat.JaxprEqn, ins: Sequence[State], outs: Sequence[State]) -> Iterator[int]:
    """Carries that the body of a loop adds to, and does nothing else with; by number."""
    body, (n, n_carry) = loop.params["jaxpr"].jaxpr, _compat.scan_counts(loop.params)
    reads = readers(body)
    for k in range(n_carry):
        if outs[k].part is not Part.SUM or ins[n + k].part is not Part.ZERO:
            continue
        before, after = body.invars[n + k], body.outvars[k]
        match reads.get(before, []), reads.get(after, []):
            case [(int(at), _)], [(None, _)]:
                adds = body.eqns[at].primitive.name in ("add", "add_any")
                if adds and body.eqns[at].outvars[0] is after:
                    yield k


def _dealt_to(big: _compat.JaxprEqn, small: _compat.JaxprEqn, dealt: Dealt) -> Dealt:
    """How a loop's examples are dealt out: in a loop over parts of the batch, these are one part.

    Args:
        big: the loop, in the larger trace.
        small: the same in the other.
        dealt: how those of the step are.
    """
    differing = [
        x
        for v, w in zip(big.invars, small.invars, strict=True)
        for x, y in zip(_compat.shape_of(v), _compat.shape_of(w), strict=True)
        if x != y
    ]
    return replace(dealt, size=min(dealt.size, *differing), numbered={})


def _with_passages(
    big: _compat.Jaxpr,
    small: _compat.Jaxpr,
    dealt: Dealt,
    found: dict[int, Loop],
    zeros: set[Any],
) -> dict[int, Loop]:
    """The loops, with what one microbatch goes through from one to its mirror image."""
    for i, loop in found.items():
        if not loop.ticked:
            continue
        own = _dealt_to(loop.big, loop.small, dealt)
        try:
            step = Step(paired(big, small), big.outvars, own, found, zeros)
            found[i] = replace(loop, passage=passage_of(step, i))
        except (MicrobatchError, PipelineError) as error:
            found[i] = replace(loop, no_passage=_about(error))
    return found


def _is_spread(big: _compat.JaxprEqn | None, small: _compat.JaxprEqn | None) -> bool:
    """Whether a value is another, of any batch, broadcast over it."""
    both = [eqn for eqn in (big, small) if eqn and eqn.primitive.name == "broadcast_in_dim"]
    shapes = {tuple(map(_compat.shape_of, eqn.invars)) for eqn in both}
    return len(both) == 2 and len(shapes) == 1


def _results_of(jaxpr: _compat.Jaxpr) -> set[Any]:
    return {v for eqn in _compat.all_equations(jaxpr) for v in eqn.outvars}


def _results_in_branches(jaxpr: _compat.Jaxpr) -> set[Any]:
    """Those of its equations, in branches too, but not in loops."""
    found = {v for eqn in jaxpr.eqns for v in eqn.outvars}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            for branch in eqn.params["branches"]:
                found |= _results_in_branches(_compat.open_body(branch)[0])
    return found


def _zeros(jaxpr: _compat.Jaxpr) -> set[Any]:
    """Variables that are zeros by definition."""
    found: set[Any] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("broadcast_in_dim", "convert_element_type"):
            value: Any = eqn.invars[0]
            literal = isinstance(value, _compat.Literal)
            if not jnp.any(value.val) if literal else value in found:
                found.update(eqn.outvars)
    return found


def _linked(jaxpr: _compat.Jaxpr, found: dict[int, Loop]) -> dict[int, Loop]:
    """The loops, with what passes from one to its mirror image tick by tick."""
    reads = readers(jaxpr)
    for i, loop in list(found.items()):
        (_, n_carry), kept, whole = _compat.scan_counts(loop.big.params), set[int](), set[int]()
        for k, var in enumerate(loop.big.outvars):
            uses = reads.get(var, ())
            if k < n_carry or loop.outs[k].part is not Part.SPLIT:
                continue
            for at, slot in uses:
                mirror = None if at is None else found.get(at)
                if (
                    at is not None
                    and mirror is not None
                    and not found[i].ticked
                    and _scans(mirror.big, slot, loop.big)
                ):
                    kept.add(k)
                    found[at] = replace(mirror, ticked=mirror.ticked | {slot})
                else:
                    whole.add(k)
        found[i] = replace(found[i], kept=frozenset(kept), whole=frozenset(whole))
    return found


def _scans(loop: _compat.JaxprEqn, slot: int, made: _compat.JaxprEqn) -> bool:
    """Whether a loop reads an operand slice by slice, and runs in the other direction."""
    return mirrored(made, loop) and slot >= sum(_compat.scan_counts(loop.params))
