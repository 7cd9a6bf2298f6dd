"""A plan's specs as JAX shardings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard.execute.rebuild import rebuild
from autoshard.plan.model import MeshPlan, Plan
from autoshard.program.spec import Spec


def in_machine_order(devices: Sequence[Any]) -> list[Any]:
    """Devices row-major over their coordinates where they have some, else by process and id.

    This is the order that a plan's `device_order` counts in.
    """

    def key(device: Any) -> tuple[Any, ...]:
        coords = getattr(device, "coords", None)
        where = tuple(coords) if coords is not None else ()
        core = getattr(device, "core_on_chip", 0) or 0
        return (
            getattr(device, "slice_index", 0) or 0,
            where,
            core,
            device.process_index,
            device.id,
        )

    return sorted(devices, key=key)


def jax_mesh(mesh: MeshPlan, devices: Sequence[Any]) -> Mesh:
    """The JAX mesh of a plan; axes are of type Auto, so that constraints may name them.

    Raises:
        ValueError: the number of devices is not the plan's.
    """
    if len(devices) != mesh.n_devices:
        raise ValueError(
            f"the plan is for {mesh.n_devices} devices (mesh {mesh}), {len(devices)} were given"
        )
    ordered = in_machine_order(devices)
    grid = np.empty(mesh.n_devices, dtype=object)
    for position, index in enumerate(mesh.device_order):
        grid[position] = ordered[index]
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(grid.reshape(mesh.axis_sizes), mesh.axis_names, axis_types=types)


def partition_spec(spec: Spec) -> PartitionSpec:
    """A spec as JAX writes it, without trailing whole dimensions."""
    dims = [None if not d else d[0] if len(d) == 1 else d for d in spec.dims]
    while dims and dims[-1] is None:
        dims.pop()
    return PartitionSpec(*dims)


def sharding(mesh: Mesh, spec: Spec) -> NamedSharding:
    """A spec on a JAX mesh."""
    return NamedSharding(mesh, partition_spec(spec))


@dataclass(frozen=True)
class Imposed:
    """A constraint of a plan, as JAX takes it; see `autoshard.plan.model.Constraint`."""

    shardings: tuple[NamedSharding, ...]
    again: int = 0
    by_rows: bool = False
    sent_as: str = ""


def constraint_table(plan: Plan, mesh: Mesh) -> Mapping[tuple[str, str], Imposed]:
    """What `autoshard.execute.replay` wants, from a plan."""
    return {
        (c.at, c.slot): Imposed(
            tuple(sharding(mesh, s) for s in c.specs), c.again, c.by_rows, c.sent_as
        )
        for c in plan.constraints
    }


def plan_shardings(plan: Plan, devices: Sequence[Any] | None = None, like: Any = None) -> Any:
    """The input shardings of a plan, for use with plain `jax.jit`.

    Args:
        plan: the plan.
        devices: as many as the plan is for; `jax.devices()` by default.
        like: the step's arguments (a tuple of pytrees), to get the same pytrees back. Without
            it, dicts, lists and tuples are rebuilt from paths.

    Returns:
        A tuple with one pytree of `NamedSharding` per argument.

    Raises:
        ValueError: wrong number of devices, or `like` has other leaves than the plan.
    """
    mesh = jax_mesh(plan.mesh, jax.devices() if devices is None else list(devices))
    leaves = [sharding(mesh, leaf.spec) for leaf in plan.inputs]
    if like is None:
        return rebuild([leaf.treepath for leaf in plan.inputs], leaves)
    flat, tree = jax.tree_util.tree_flatten(like)
    if len(flat) != len(leaves):
        raise ValueError(
            f"`like` has {len(flat)} leaves and the plan {len(leaves)} inputs; pass the tuple of"
            " all dynamic arguments of the step"
        )
    return jax.tree_util.tree_unflatten(tree, leaves)
