"""Trace a function on abstract arguments: flat jaxpr, pytrees, paths, and the program."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from autoshard import _compat
from autoshard.program.ir import Leaf, Program, Role
from autoshard.trace.explicit import without_explicit_types
from autoshard.trace.roles import find_roles
from autoshard.trace.signature import Signature
from autoshard.trace.state import match_state
from autoshard.trace.tree import steps, written
from autoshard.trace.unfold import unfolded
from autoshard.trace.walk import Walker


@dataclass(frozen=True)
class Traced:
    """A traced function: the program for planning, the jaxpr for execution, the trees for users.

    Attributes:
        program, closed: the same, for planning and for execution.
        signature: of the arguments.
        out_tree: of the results.
        fn: what was traced; takes the positional arguments of the signature.
        notes: what a person must know of how `closed` differs from what `fn` says.
    """

    program: Program
    closed: _compat.ClosedJaxpr
    signature: Signature
    out_tree: Any
    fn: Callable[..., Any]
    notes: tuple[str, ...] = ()


def trace(
    fn: Callable[..., Any],
    sig: Signature,
    *,
    name: str,
    donated: frozenset[int] = frozenset(),
) -> Traced:
    """Trace `fn(*args)` at a signature.

    State that goes in weakly typed (as Python numbers are) and comes out strongly typed is taken
    as strongly typed from the start, as `lax.scan` takes its carry: the second step is then the
    same program as the first.

    Args:
        fn: takes the positional arguments of the signature.
        sig: from `signature`.
        name: what to call the program.
        donated: indices of donated positional arguments.

    Raises:
        StateMismatchError: a donated argument comes back with other shapes or dtypes.
    """
    while True:
        traced = _trace(fn, sig, name, donated)
        results = traced.closed.out_avals
        weak = {
            i
            for out, i in traced.program.aliases
            if sig.leaves[i].weak_type and not results[out].weak_type
        }
        if not weak:
            return traced
        sig = sig.strong(weak)


def _trace(fn: Callable[..., Any], sig: Signature, name: str, donated: frozenset[int]) -> Traced:
    closed, out_tree, out_paths = jaxpr_of(fn, sig)

    walker = Walker()
    consts = [
        walker.constant(v.aval, value)
        for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
    ]
    args = [walker.tensor(v.aval) for v in closed.jaxpr.invars]
    results = walker.walk(closed.jaxpr, consts, args)

    aliases = match_state(sig, out_tree, out_paths, closed.out_avals, donated)
    roles = find_roles(walker.ops, args, results, aliases)
    inputs = tuple(
        Leaf(
            path=info.path,
            tensor=args[i],
            shape=info.shape,
            dtype=str(info.dtype),
            role=roles[i],
            donated=int(info.treepath[0][1]) in donated,
            treepath=info.treepath,
        )
        for i, info in enumerate(sig.leaves)
    )
    outputs = tuple(
        Leaf(
            path=written("out", path),
            tensor=results[i],
            shape=tuple(aval.shape),
            dtype=str(aval.dtype),
            role=Role.OUTPUT,
            treepath=steps(path),
        )
        for i, (path, aval) in enumerate(zip(out_paths, closed.out_avals, strict=True))
    )
    program = Program(
        name=name,
        tensors=tuple(walker.tensors),
        ops=tuple(walker.ops),
        regions=tuple(walker.regions),
        inputs=inputs,
        outputs=outputs,
        aliases=aliases,
        fingerprint=fingerprint(closed),
        mesh_sizes=walker.own_mesh,
    )
    return Traced(program, closed, sig, out_tree, fn)


def jaxpr_of(fn: Callable[..., Any], sig: Signature) -> tuple[_compat.ClosedJaxpr, Any, list[Any]]:
    """The jaxpr of `fn` over flat arguments, the tree of its results, and their paths."""
    out_info: list[tuple[Any, list[Any]]] = []

    def flat(*leaves: Any) -> list[Any]:
        args = jax.tree_util.tree_unflatten(sig.in_tree, leaves)
        with_paths, tree = jax.tree_util.tree_flatten_with_path(fn(*args))
        out_info.append((tree, [path for path, _ in with_paths]))
        return [leaf for _, leaf in with_paths]

    closed = unfolded(without_explicit_types(jax.make_jaxpr(flat)(*sig.types)))
    closed = _compat.without_dead_code(_compat.without_references(closed))
    return closed, *out_info[-1]


def rewritten(traced: Traced, closed: _compat.ClosedJaxpr, notes: tuple[str, ...]) -> Traced:
    """The function with another jaxpr for the same inputs and outputs.

    Args:
        traced: as it was.
        closed: computes the same.
        notes: what was changed, for people.
    """
    walker = Walker()
    consts = [
        walker.constant(v.aval, value)
        for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
    ]
    args = [walker.tensor(v.aval) for v in closed.jaxpr.invars]
    results = walker.walk(closed.jaxpr, consts, args)
    was = traced.program
    program = Program(
        name=was.name,
        tensors=tuple(walker.tensors),
        ops=tuple(walker.ops),
        regions=tuple(walker.regions),
        inputs=tuple(replace(x, tensor=t) for x, t in zip(was.inputs, args, strict=True)),
        outputs=tuple(replace(x, tensor=t) for x, t in zip(was.outputs, results, strict=True)),
        aliases=was.aliases,
        fingerprint=fingerprint(closed),
        mesh_sizes=walker.own_mesh,
    )
    return replace(traced, program=program, closed=closed, notes=(*traced.notes, *notes))


def fingerprint(closed: _compat.ClosedJaxpr) -> str:
    """A hash of the program's text; memory addresses of Python objects are left out."""
    text = re.sub(r"0x[0-9a-fA-F]+", "", str(closed.jaxpr))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
