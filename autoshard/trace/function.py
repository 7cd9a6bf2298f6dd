"""Trace a function on abstract arguments: flat jaxpr, pytrees, paths, and the program."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from autoshard import _compat
from autoshard.program.ir import Leaf, Program, Role
from autoshard.trace.roles import find_roles
from autoshard.trace.state import match_state
from autoshard.trace.tree import Steps, steps, written
from autoshard.trace.walk import Walker


@dataclass(frozen=True)
class LeafInfo:
    """An argument leaf before tracing."""

    path: str
    treepath: Steps
    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool


@dataclass(frozen=True)
class Signature:
    """What a call looks like to the compiler: argument tree and leaf types.

    Two calls with equal `key` share a plan and a compiled program.
    """

    in_tree: Any
    leaves: tuple[LeafInfo, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        kinds = tuple((leaf.shape, str(leaf.dtype), leaf.weak_type) for leaf in self.leaves)
        return (self.in_tree, kinds)

    @property
    def structs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(_compat.struct(x.shape, x.dtype, x.weak_type) for x in self.leaves)


def signature(args: Sequence[Any], names: Sequence[str]) -> Signature:
    """The signature of positional arguments called `names`.

    Raises:
        TypeError: a leaf is neither array nor number; says which.
    """
    infos: list[LeafInfo] = []
    for i, (name, arg) in enumerate(zip(names, args, strict=True)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]:
            where = written(name, path)
            try:
                shape, dtype, weak = _compat.abstract(leaf)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"argument leaf {where} is a {type(leaf).__name__}, not an array or a number."
                    f" Pass it as a static argument (static_argnames={name!r}) or close over it."
                ) from error
            treepath = (("index", str(i)), *steps(path))
            infos.append(LeafInfo(where, treepath, shape, dtype, weak))
    return Signature(jax.tree_util.tree_structure(tuple(args)), tuple(infos))


@dataclass(frozen=True)
class Traced:
    """A traced function: the program for planning, the jaxpr for execution, the trees for users."""

    program: Program
    closed: _compat.ClosedJaxpr
    signature: Signature
    out_tree: Any


def trace(
    fn: Callable[..., Any],
    sig: Signature,
    *,
    name: str,
    donated: frozenset[int] = frozenset(),
) -> Traced:
    """Trace `fn(*args)` at a signature.

    Args:
        fn: takes the positional arguments of the signature.
        sig: from `signature`.
        name: what to call the program.
        donated: indices of donated positional arguments.

    Raises:
        StateMismatchError: a donated argument comes back with other shapes or dtypes.
    """
    out_info: list[tuple[Any, list[Any]]] = []

    def flat(*leaves: Any) -> list[Any]:
        args = jax.tree_util.tree_unflatten(sig.in_tree, leaves)
        with_paths, tree = jax.tree_util.tree_flatten_with_path(fn(*args))
        out_info.append((tree, [path for path, _ in with_paths]))
        return [leaf for _, leaf in with_paths]

    closed = _compat.without_dead_code(jax.make_jaxpr(flat)(*sig.structs))
    out_tree, out_paths = out_info[-1]

    walker = Walker()
    consts = [walker.tensor(v.aval) for v in closed.jaxpr.constvars]
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
    )
    return Traced(program, closed, sig, out_tree)


def fingerprint(closed: _compat.ClosedJaxpr) -> str:
    """A hash of the program's text; memory addresses of Python objects are left out."""
    text = re.sub(r"0x[0-9a-fA-F]+", "", str(closed.jaxpr))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parameter_names(fn: Callable[..., Any], n: int) -> list[str]:
    """Names of the first `n` positional parameters, "arg3" where there is none."""
    try:
        params = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        params = []
    positional = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [positional[i] if i < len(positional) else f"arg{i}" for i in range(n)]
