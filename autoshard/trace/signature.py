"""What a call looks like to the compiler: argument tree, leaf types, names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
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
    sharding: Any = None  # in its type, under a mesh of explicit axes

    def __str__(self) -> str:
        scalar = " from a Python number" if self.weak_type else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{scalar}"


@dataclass(frozen=True)
class Signature:
    """What a call looks like to the compiler: argument tree and leaf types.

    Two calls with equal `key` share a plan and a compiled program.
    """

    in_tree: Any
    leaves: tuple[LeafInfo, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        kinds = tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in self.leaves)
        return (self.in_tree, kinds)

    def strong(self, leaves: Collection[int]) -> Signature:
        """This signature with some leaves no longer weakly typed."""
        changed = [
            replace(leaf, weak_type=False) if i in leaves else leaf
            for i, leaf in enumerate(self.leaves)
        ]
        return Signature(self.in_tree, tuple(changed))

    def difference(self, new: Signature) -> str:
        """What changed from this signature to a new one, in a phrase; "" if nothing did."""
        before = {leaf.path: leaf for leaf in self.leaves}
        after = {leaf.path: leaf for leaf in new.leaves}
        changes = [
            f"{path} was {before[path]}, is {leaf}"
            for path, leaf in after.items()
            if path in before and str(before[path]) != str(leaf)
        ]
        changes += [f"{path} is new" for path in after if path not in before]
        changes += [f"{path} is gone" for path in before if path not in after]
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        return "; ".join(changes[:3]) + more

    @property
    def structs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(_compat.struct(x.shape, x.dtype, x.weak_type) for x in self.leaves)

    @property
    def types(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The same with what types say of layouts, as the user's function expects them."""
        return tuple(_compat.struct(x.shape, x.dtype, x.weak_type, x.sharding) for x in self.leaves)


def key_of(args: Sequence[Any], names: Sequence[str]) -> tuple[Any, ...]:
    """The `Signature.key` of arguments, quickly: without the paths that only people read.

    Raises:
        TypeError: a leaf is neither array nor number; says which.
    """
    leaves, tree = jax.tree_util.tree_flatten(tuple(args))
    try:
        return tree, tuple(map(_compat.abstract, leaves))
    except (TypeError, ValueError):
        signature(args, names)  # says which leaf
        raise


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
            said = _compat.explicit_sharding(leaf)
            infos.append(LeafInfo(where, treepath, shape, dtype, weak, said))
    return Signature(jax.tree_util.tree_structure(tuple(args)), tuple(infos))


def parameter_names(fn: Callable[..., Any], n: int) -> list[str]:
    """Names of the first `n` positional parameters, "arg3" where there is none."""
    try:
        params = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        params = []
    positional = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [positional[i] if i < len(positional) else f"arg{i}" for i in range(n)]
