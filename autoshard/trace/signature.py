"""What a call looks like to the compiler: argument tree, leaf types, names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from autoshard import _compat
from autoshard.trace.tree import Steps, steps, written


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


def parameter_names(fn: Callable[..., Any], n: int) -> list[str]:
    """Names of the first `n` positional parameters, "arg3" where there is none."""
    try:
        params = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        params = []
    positional = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [positional[i] if i < len(positional) else f"arg{i}" for i in range(n)]
