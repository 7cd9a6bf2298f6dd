"""Sharded equals unsharded: the same steps from the same state, compared leaf by leaf.

Both sides feed their own results back, so that an error which grows is seen growing. An error is
relative to the largest value of its leaf: sums in another order change the last digits of every
element by about as much, the small ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard.trace.function import Traced, trace
from autoshard.trace.nnx import Modules, holds_modules, take_apart
from autoshard.trace.signature import parameter_names, signature
from autoshard.trace.tree import written

# Single precision after a few steps; compare bfloat16 with BFLOAT16_TOLERANCE.
FLOAT32_TOLERANCE = 1e-5
# One unit in the last place is 2^-8; sums of many rounded terms in another order differ by several.
BFLOAT16_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True)
class LeafError:
    """How far one output leaf was off.

    Attributes:
        path: pytree path, e.g. "out[0]['params']['kernel']".
        error: largest difference over the leaf's largest value, of the worst step; infinite where
            one side is not finite and the other is.
        step: the worst step, counted from 1.
        scale: the leaf's largest value in that step.
    """

    path: str
    error: float
    step: int
    scale: float


@dataclass(frozen=True, slots=True)
class EqualityReport:
    """The comparison of a sharded with an unsharded step.

    Attributes:
        leaves: one entry per output leaf, in their order. What an NNX step changes in its
            arguments counts as output.
        steps: how many were run.
    """

    leaves: tuple[LeafError, ...]
    steps: int

    @property
    def worst(self) -> LeafError:
        return max(self.leaves, key=lambda leaf: leaf.error)

    def agrees(self, tolerance: float = FLOAT32_TOLERANCE) -> bool:
        """Whether every leaf is within a relative tolerance."""
        return all(leaf.error <= tolerance for leaf in self.leaves)

    def text(self, most: int = 8) -> str:
        """The worst leaves, one a line."""
        ranked = sorted(self.leaves, key=lambda leaf: -leaf.error)[:most]
        return "\n".join(
            [
                f"{len(self.leaves)} leaves over {self.steps} steps, errors relative to the"
                " largest value of each; the worst:",
                *(f"  {x.error:9.2e}  step {x.step}  max {x.scale:.3g}  {x.path}" for x in ranked),
            ]
        )

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True)
class PureStep:
    """A step without side effects: NNX modules became state that goes in and comes out.

    Attributes:
        fn: takes `values`.
        values: its arguments.
        names: what they are called.
        modules: the modules that were taken apart, if there were any.
    """

    fn: Callable[..., Any]
    values: tuple[Any, ...]
    names: tuple[str, ...]
    modules: Modules | None

    def trace(self, name: str) -> Traced:
        return trace(self.fn, signature(self.values, self.names), name=name)


def pure_step(fn: Callable[..., Any], args: Sequence[Any]) -> PureStep:
    """`fn(*args)`, made pure."""
    names = tuple(parameter_names(fn, len(args)))
    if not holds_modules(args):
        return PureStep(fn, tuple(args), names, None)
    modules, values = take_apart(args, names)
    return PureStep(modules.pure(fn), values, names, modules)


def compare_steps(
    fn: Callable[..., Any], sharded: Callable[..., Any], args: Sequence[Any], *, steps: int = 5
) -> EqualityReport:
    """Run a step under plain `jax.jit` and sharded, and compare all that comes out.

    State is found by structure, as planning finds it: an argument whose like comes out is replaced
    by it before the next step. All other arguments stay as they are. `args` are left alone.

    Args:
        fn: the plain step.
        sharded: the same step under `@autoshard`, or anything that should behave like it.
        args: positional arguments, NNX modules included.
        steps: how many steps to run.
    """
    pure = pure_step(fn, args)
    traced = pure.trace(getattr(fn, "__name__", "step"))
    state = traced.program.aliases
    plain = jax.jit(pure.fn)
    run = sharded if pure.modules is None else _on_modules(sharded, pure, pure.modules)
    tree = jax.tree_util.tree_structure(pure.values)
    here = jax.tree_util.tree_leaves(pure.values)
    there = [_copy(leaf) for leaf in here]
    worst: dict[str, LeafError] = {}
    for step in range(1, steps + 1):
        expected = plain(*jax.tree_util.tree_unflatten(tree, here))
        found = run(*jax.tree_util.tree_unflatten(tree, there))
        want = jax.tree_util.tree_flatten_with_path(expected)[0]
        have = jax.tree_util.tree_leaves(found)
        for (path, a), b in zip(want, have, strict=True):
            leaf = _leaf_error(written("out", path), a, b, step)
            if leaf.path not in worst or leaf.error > worst[leaf.path].error:
                worst[leaf.path] = leaf
        for out, into in state:
            here[into], there[into] = want[out][1], have[out]
    return EqualityReport(tuple(worst.values()), steps)


def _on_modules(sharded: Callable[..., Any], pure: PureStep, modules: Modules) -> Any:
    """A step that changes modules, as one that takes and returns their arrays."""

    def run(*values: Any) -> tuple[Any, Any]:
        whole = modules.together(values)
        out = sharded(*whole)
        return modules.held(take_apart(whole, pure.names)[1]), out

    return run


def _copy(leaf: Any) -> Any:
    """A copy of an array, so that donating it harms nobody."""
    return jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf


def _leaf_error(path: str, expected: Any, found: Any, step: int) -> LeafError:
    a, b = _wide(expected), _wide(found)
    if a.shape != b.shape:
        raise ValueError(f"{path} is {list(a.shape)} unsharded and {list(b.shape)} sharded")
    if a.size == 0:
        return LeafError(path, 0.0, step, 0.0)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return LeafError(path, float("inf"), step, float("nan"))
    scale = float(np.abs(a[finite]).max(initial=0.0))
    off = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    if off == 0.0:
        return LeafError(path, 0.0, step, scale)
    return LeafError(path, off / scale if scale else float("inf"), step, scale)


def _wide(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A leaf's numbers, wide enough that comparing adds no error; keys as their words."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).astype(np.float64)
