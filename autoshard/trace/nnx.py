"""Flax NNX modules as arguments: taken apart into arrays before, updated after.

`jax.jit` on a function of modules runs, and silently loses every change made to them. Here the
module arguments are split into a static graph and pytrees of arrays, the step runs purely on the
arrays, and those that come back are written into the caller's own objects, as `nnx.jit` does.
Flax is only touched if the caller has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax


def _nnx() -> Any:
    return sys.modules.get("flax.nnx")


def holds_modules(values: Sequence[Any]) -> bool:
    """Whether any value is, or contains, an NNX module, optimizer, metric or variable."""
    nnx = _nnx()
    # Modules, optimizers, metrics and Rngs are all `Pytree`s; a bare variable is not.
    return nnx is not None and _holds(values, (nnx.Pytree, nnx.Variable))


def _holds(values: Any, kinds: tuple[type, ...]) -> bool:
    # A `State` is the functional way to use NNX: its variables are the leaves of a plain pytree.
    stops = (*kinds, _nnx().State)
    leaves = jax.tree_util.tree_leaves(values, is_leaf=lambda x: isinstance(x, stops))
    return any(isinstance(leaf, kinds) for leaf in leaves)


@dataclass(frozen=True)
class Modules:
    """The module arguments of one call, taken apart.

    Attributes:
        positions: which dynamic values held modules.
        names: what these are called.
        graph: their static part: hashable.
    """

    positions: tuple[int, ...]
    names: tuple[str, ...]
    graph: Any

    def held(self, values: Sequence[Any]) -> dict[str, Any]:
        """The values at the modules' positions, by name."""
        return {name: values[i] for name, i in zip(self.names, self.positions, strict=True)}

    def together(self, values: Sequence[Any]) -> list[Any]:
        """A call's dynamic values, with fresh modules in place of their arrays."""
        fresh = _nnx().merge(self.graph, self.held(values))
        out = list(values)
        for name, i in zip(self.names, self.positions, strict=True):
            out[i] = fresh[name]
        return out

    def pure(self, call: Callable[..., Any]) -> PureCall:
        """`call`, on arrays alone."""
        return PureCall(self, call)


class PureCall:
    """A call on modules as a function of arrays: `values -> (arrays by module, result)`.

    Attributes:
        graph_after: the modules' static part after the call; known once it was traced.
    """

    def __init__(self, modules: Modules, call: Callable[..., Any]) -> None:
        self.modules, self.call = modules, call
        self.graph_after: Any = modules.graph

    def __call__(self, *values: Any) -> tuple[dict[str, Any], Any]:
        whole = self.modules.together(values)
        out = self.call(*whole)
        if _holds(out, (_nnx().Pytree,)):
            raise TypeError(
                "the step returns an NNX module. Modules passed as arguments are updated in"
                " place; return arrays only."
            )
        self.graph_after, arrays = _split(self.modules.held(whole))
        return arrays, out


def take_apart(dynamic: Sequence[Any], names: Sequence[str]) -> tuple[Modules, tuple[Any, ...]]:
    """Split the modules among a call's dynamic values.

    Returns:
        (how to put them back, the values with nested dicts of arrays in place of modules).
    """
    positions = tuple(i for i, v in enumerate(dynamic) if holds_modules([v]))
    held = tuple(names[i] for i in positions)
    # One split for all: modules may share variables, which then belong to the first of them.
    graph, arrays = _split({n: dynamic[i] for n, i in zip(held, positions, strict=True)})
    values = list(dynamic)
    for name, i in zip(held, positions, strict=True):
        values[i] = arrays[name]
    return Modules(positions, held, graph), tuple(values)


def put_back(
    modules: Modules, dynamic: Sequence[Any], arrays: Mapping[str, Any], graph_after: Any
) -> None:
    """Write what came back into the caller's own objects.

    Args:
        modules: from `take_apart`.
        dynamic: the caller's values.
        arrays: by module, as `PureCall` returns them.
        graph_after: `PureCall.graph_after`.
    """
    held = modules.held(dynamic)
    if graph_after is not modules.graph and graph_after != modules.graph:
        _follow(held, _nnx().merge(graph_after, arrays))
    _nnx().update(held, arrays)


def _split(held: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    nnx = _nnx()
    graph, state = nnx.split(dict(held))
    arrays = nnx.to_pure_dict(state)
    # A module all of whose variables belong to another has no entry.
    return graph, {name: arrays.get(name, {}) for name in held}


def _follow(held: Any, fresh: Any) -> None:
    """Give the caller's modules the attributes that a step set, added or removed."""
    nnx = _nnx()
    old = {path: node for path, node in nnx.iter_graph(held) if isinstance(node, nnx.Pytree)}
    for path, node in list(nnx.iter_graph(fresh)):
        if path not in old or not isinstance(node, nnx.Pytree):
            continue
        before, after = _attributes(old[path]), _attributes(node)
        for name in before.keys() - after.keys():
            delattr(old[path], name)
        for name, value in after.items():
            if name not in before or not _is_dynamic(value):
                setattr(old[path], name, value)


def _attributes(node: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(node).items() if not name.startswith("_pytree__")}


def _is_dynamic(value: Any) -> bool:
    arrays = (jax.Array, jax.ShapeDtypeStruct)
    return holds_modules([value]) or any(
        isinstance(leaf, arrays) for leaf in jax.tree_util.tree_leaves(value)
    )
