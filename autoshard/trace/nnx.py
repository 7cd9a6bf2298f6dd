"""Flax NNX modules as arguments: taken apart into arrays before, updated after.

`jax.jit` on a function of modules runs, and silently loses every change made to them. Here the
module arguments are split into a static graph and a state pytree, the step runs purely on the
state, and the state that comes back is written into the caller's own objects, as `nnx.jit` does.
Flax is only touched if the caller has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax


def _nnx() -> Any:
    return sys.modules.get("flax.nnx")


def holds_modules(values: Sequence[Any]) -> bool:
    """Whether any value is, or contains, an NNX module, optimizer, metric or variable."""
    nnx = _nnx()
    if nnx is None:
        return False
    # Modules, optimizers, metrics and Rngs are all `Pytree`s; a bare variable is not.
    kinds = (nnx.Pytree, nnx.Variable)

    def stop(x: Any) -> bool:
        # The variables of a State belong to no module: it is the plain pytree of `nnx.split`.
        return isinstance(x, (*kinds, nnx.State))

    return any(
        isinstance(leaf, kinds)
        for v in values
        for leaf in jax.tree_util.tree_leaves(v, is_leaf=stop)
    )


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

    def together(self, state: Any, others: Sequence[Any]) -> list[Any]:
        """A call's dynamic values: fresh modules holding `state`, between the other values."""
        modules = _nnx().merge(self.graph, state)
        named = dict(zip(self.positions, self.names, strict=True))
        rest = iter(others)
        total = len(self.positions) + len(others)
        return [modules[named[i]] if i in named else next(rest) for i in range(total)]

    def pure(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call(*dynamic)` as a function of (state, *other values) -> (state, result)."""

        def run(state: Any, *others: Any) -> tuple[Any, Any]:
            values = self.together(state, others)
            out = call(*values)
            if holds_modules([out]):
                raise TypeError(
                    "the step returns an NNX module. Modules passed as arguments are updated in"
                    " place; return arrays only."
                )
            held = {name: values[i] for name, i in zip(self.names, self.positions, strict=True)}
            return _nnx().split(held)[1], out

        return run


def take_apart(dynamic: Sequence[Any], names: Sequence[str]) -> tuple[Modules, tuple[Any, ...]]:
    """Split the module arguments off a call's dynamic values.

    Returns:
        (how to put them back, (state, *other values)).
    """
    nnx = _nnx()
    positions = tuple(i for i, v in enumerate(dynamic) if holds_modules([v]))
    held = tuple(names[i] for i in positions)
    # One split for all: modules may share variables.
    graph, state = nnx.split({n: dynamic[i] for n, i in zip(held, positions, strict=True)})
    others = tuple(v for i, v in enumerate(dynamic) if i not in positions)
    return Modules(positions, held, graph), (state, *others)


def put_back(modules: Modules, dynamic: Sequence[Any], state: Any) -> None:
    """Write a new state into the caller's own objects."""
    nnx = _nnx()
    held = zip(modules.names, modules.positions, strict=True)
    nnx.update({name: dynamic[i] for name, i in held}, state)
