"""`jax.jit` for arguments and results that hold no shardings in the place of their arrays.

`jax.jit` wants shardings in pytrees of its arguments' and results' classes. Classes that look at
what they are made of, as GPJax's data sets look at shapes, refuse shardings. A program of theirs
takes and returns leaves, and their pytrees are taken apart and put together around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from autoshard.execute.lowered import Lowered


class OtherSignature(Exception):
    """The compiled function was called with other shapes, dtypes or structure."""


def holding(tree: Any, leaves: Sequence[Any]) -> Any:
    """A pytree with these leaves; None where its classes take none of this kind, or change them."""
    try:
        made = jax.tree_util.tree_unflatten(tree, leaves)
        held, again = jax.tree_util.tree_flatten(made)
    except Exception:  # raised by the user's classes, as they please
        return None
    same = again == tree and all(a is b for a, b in zip(held, leaves, strict=True))
    return made if same else None


class Leafwise:
    """Called, and lowered, like `jax.jit` of a function of pytrees.

    Args:
        run: from leaves to leaves.
        trees: of the tuple of arguments, and of the result.
        ins: a sharding for each leaf of the arguments.
        outs: a sharding for each leaf of the result.
        donated: indices of donated leaves of the arguments.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        trees: tuple[Any, Any],
        ins: Sequence[Any],
        outs: Sequence[Any],
        donated: Sequence[int],
    ) -> None:
        self._in_tree, self._out_tree = trees
        self._jitted = jax.jit(
            run,
            in_shardings=tuple(ins),
            out_shardings=list(outs),
            donate_argnums=tuple(donated),
        )

    def __call__(self, *dynamic: Any) -> Any:
        """The result for these arguments.

        Raises:
            OtherSignature: they have another structure.
        """
        return self._around(self._jitted, *dynamic)

    def lower_leaves(self, structs: Sequence[Any]) -> Lowered:
        """`jax.stages.Lowered` for leaves of these types; compiled, it takes the arguments."""
        return Lowered(self._jitted.lower(*structs), self._around)

    def _around(self, program: Callable[..., Any], *dynamic: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(dynamic)
        if tree != self._in_tree:
            raise OtherSignature
        return jax.tree_util.tree_unflatten(self._out_tree, program(*leaves))
