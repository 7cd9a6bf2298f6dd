"""A plan made runnable: `jax.jit` of the replayed program with the plan's shardings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from autoshard import _compat
from autoshard.execute.replay import Replay
from autoshard.execute.shardings import constraint_table, sharding
from autoshard.plan import units
from autoshard.plan.model import LeafPlan, Plan
from autoshard.trace.function import Traced
from autoshard.trace.signature import key_of


class OtherSignature(Exception):
    """The compiled function was called with other shapes, dtypes or structure."""


@dataclass(frozen=True)
class Executable:
    """A planned function, ready to run.

    Attributes:
        plan: what it does.
        mesh: the JAX mesh.
        jitted: `jax.jit` of it.
        in_shardings: per input leaf.
        out_shardings: per output leaf.
    """

    plan: Plan
    mesh: Mesh
    traced: Traced
    jitted: Any
    in_shardings: tuple[NamedSharding, ...]
    out_shardings: tuple[NamedSharding, ...]

    def __call__(self, *dynamic: Any) -> Any:
        """Run it, on the plan's mesh whatever `jax.set_mesh` says.

        Under a mesh of explicit axes that is the plan's too, results say how they lie on it.
        """
        if not _compat.has_context_mesh():
            return self.jitted(*dynamic)
        explicit = _compat.explicit_mesh()
        with _compat.no_context_mesh():
            results = self.jitted(*dynamic)
        if explicit is None or _compat.automatic(explicit) != self.mesh:
            return results
        return jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(explicit, x.sharding.spec)), results
        )

    def lower(self) -> Any:
        """The `jax.stages.Lowered` of it."""
        signature = self.traced.signature
        structs = jax.tree_util.tree_unflatten(signature.in_tree, signature.structs)
        with _compat.no_context_mesh():
            return self.jitted.lower(*structs)

    def place(self, dynamic: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[LeafPlan, ...]]:
        """Move leaves that are committed elsewhere; returns the arguments and what was moved.

        Weakly typed leaves that the program takes as strongly typed become so.

        State that is committed nowhere is put in place without a word: the step's own results
        come back placed, and JAX would compile once for either kind of argument. What was moved
        from is left alone, donated or not.
        """
        leaves, tree = jax.tree_util.tree_flatten(tuple(dynamic))
        state = {i for _, i in self.traced.program.aliases}
        moved: list[LeafPlan] = []
        out = list(leaves)
        infos = self.traced.signature.leaves
        for k, (leaf, want) in enumerate(zip(leaves, self.in_shardings, strict=True)):
            if _compat.abstract(leaf)[2] and not infos[k].weak_type:
                leaf = out[k] = jax.lax.convert_element_type(leaf, infos[k].dtype)
            if not isinstance(leaf, jax.Array):
                continue
            if leaf.committed:
                if leaf.sharding.is_equivalent_to(want, leaf.ndim):
                    continue
                moved.append(self.plan.inputs[k])
            elif k not in state:
                continue  # JAX puts it in place as cheaply
            if self.traced.program.inputs[k].donated:
                # Its buffer is gone after the call, so it must not be anyone else's, not even that
                # of another leaf moved from the same array. JAX's `may_alias=False` does not help.
                leaf = jnp.copy(leaf)
            out[k] = jax.device_put(leaf, want)
        return jax.tree_util.tree_unflatten(tree, out), tuple(moved)


def executable(traced: Traced, plan: Plan, mesh: Mesh, donated: frozenset[int]) -> Executable:
    """Build the jitted function of a plan.

    Args:
        traced: the function, traced at the plan's signature.
        plan: made for this program.
        mesh: from `jax_mesh`.
        donated: indices of donated dynamic arguments.
    """
    table = constraint_table(plan, mesh)
    ins = tuple(sharding(mesh, leaf.spec) for leaf in plan.inputs)
    outs = tuple(sharding(mesh, leaf.spec) for leaf in plan.outputs)
    in_tree, out_tree, key = traced.signature.in_tree, traced.out_tree, traced.signature.key
    names = [""] * len(in_tree.children())

    def run(*dynamic: Any) -> Any:
        # Python runs this only when JAX has not seen the arguments' types before.
        if key_of(dynamic, names) != key:
            raise OtherSignature
        leaves = jax.tree_util.tree_leaves(dynamic)
        results = Replay(table, mesh).run(traced.closed.jaxpr, traced.closed.consts, leaves)
        return jax.tree_util.tree_unflatten(out_tree, results)

    run.__name__ = run.__qualname__ = traced.program.name
    jitted = jax.jit(
        run,
        in_shardings=jax.tree_util.tree_unflatten(in_tree, ins),
        out_shardings=jax.tree_util.tree_unflatten(out_tree, outs),
        donate_argnums=tuple(sorted(donated)),
    )
    return Executable(plan, mesh, traced, jitted, ins, outs)


def describe_move(name: str, moved: Sequence[LeafPlan]) -> str:
    """Which inputs were placed otherwise and had to be moved, how far, and how to avoid it."""
    first = moved[0]
    total = sum(leaf.bytes_per_device for leaf in moved)
    more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
    return (
        f"{name}: moved {first.path}{more} to where the plan keeps them"
        f" ({first.path}: {first.spec}; {units.size(total)} per device). Initialise with"
        f" {name}.init(...) after {name}.plan_for(...), or load onto"
        f" {name}.plan.shardings(devices), to avoid this."
    )
