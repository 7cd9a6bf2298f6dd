"""State initialised where it will live, never whole on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard.execute.shardings import in_machine_order, jax_mesh, sharding
from autoshard.plan.model import Plan
from autoshard.trace.nnx import Modules, holds_modules, take_apart


def initialise(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    plan: Plan | None,
    devices: Sequence[Any] | None,
) -> Any:
    """`fn(*args, **kwargs)`, compiled, with its result placed as a plan's state.

    Args:
        fn: makes the state; NNX modules and optimizers are state too.
        args: of `fn`.
        kwargs: of `fn`.
        plan: one of whose arguments has the result's leaves; None, or a plan without such an
            argument, splits every leaf evenly.
        devices: where; `jax.devices()` by default.
    """
    graphs: list[Modules] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made = fn(*args, **kwargs)
        if not holds_modules([made]):
            return made
        modules, (arrays,) = take_apart([made], ["made"])
        graphs.append(modules)
        return arrays

    shapes = jax.eval_shape(make, *args, **kwargs)
    leaves, tree = jax.tree_util.tree_flatten(shapes)
    found = None if plan is None else _matching(leaves, plan)
    everywhere = jax.devices() if devices is None else list(devices)
    if plan is not None and found is not None:
        mesh = jax_mesh(plan.mesh, everywhere)
        outs = [sharding(mesh, plan.inputs[k].spec) for k in found]
    else:
        outs = _evenly(leaves, in_machine_order(everywhere))

    def make_leaves(*args: Any, **kwargs: Any) -> list[Any]:
        # Classes of the state may refuse shardings where their arrays belong.
        return jax.tree_util.tree_leaves(make(*args, **kwargs))

    placed = jax.jit(make_leaves, out_shardings=list(outs))(*args, **kwargs)
    made = jax.tree_util.tree_unflatten(tree, placed)
    return graphs[-1].together([made])[0] if graphs else made


def _matching(leaves: Sequence[Any], plan: Plan) -> range | None:
    """The consecutive inputs of one argument whose shapes and dtypes are the leaves'."""
    wanted = [(tuple(x.shape), str(x.dtype)) for x in leaves]
    have = [(x.shape, x.dtype) for x in plan.inputs]
    n = len(wanted)
    starts = [
        k
        for k in range(len(have) - n + 1)
        if k == 0 or plan.inputs[k].treepath[:1] != plan.inputs[k - 1].treepath[:1]
    ]
    # First where an argument begins, then anywhere (a state inside a larger argument).
    for k in [*starts, *(k for k in range(len(have) - n + 1) if k not in starts)]:
        if n and have[k : k + n] == wanted:
            return range(k, k + n)
    return None


def _evenly(leaves: Sequence[Any], devices: Sequence[Any]) -> list[NamedSharding]:
    """Each leaf split over all devices along its largest dimension that they divide."""
    mesh = Mesh(list(devices), ("devices",), axis_types=(AxisType.Auto,))
    out: list[NamedSharding] = []
    for leaf in leaves:
        dims = [d for d, s in enumerate(leaf.shape) if s % len(devices) == 0 and s > 0]
        spec: list[str | None] = [None] * len(leaf.shape)
        if dims:
            spec[max(dims, key=lambda d: leaf.shape[d])] = "devices"
        out.append(NamedSharding(mesh, PartitionSpec(*spec)))
    return out
