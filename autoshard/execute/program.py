"""A plan made runnable: `jax.jit` of the replayed program with the plan's shardings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from autoshard import _compat
from autoshard.execute.leafwise import Leafwise, OtherSignature, holding
from autoshard.execute.replay import Replay
from autoshard.execute.shardings import constraint_table, sharding
from autoshard.plan import units
from autoshard.plan.model import LeafPlan, Plan
from autoshard.trace.function import Traced
from autoshard.trace.signature import key_of


@dataclass(frozen=True)
class Executable:
    """A planned function, ready to run.

    Attributes:
        plan: what it does.
        mesh: the JAX mesh.
        jitted: `jax.jit` of it, or of its leaves.
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
        with _compat.no_context_mesh():
            if isinstance(self.jitted, Leafwise):
                return self.jitted.lower_leaves(signature.structs)
            structs = jax.tree_util.tree_unflatten(signature.in_tree, signature.structs)
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
    in_pytree, out_pytree = holding(in_tree, ins), holding(out_tree, outs)

    def leafwise(*leaves: Any) -> list[Any]:
        # Python runs this only when JAX has not seen the arguments' types before.
        if tuple(map(_compat.abstract, leaves)) != key[1]:
            raise OtherSignature
        return Replay(table, mesh).run(traced.closed.jaxpr, traced.closed.consts, leaves)

    def run(*dynamic: Any) -> Any:
        if key_of(dynamic, names) != key:
            raise OtherSignature
        results = leafwise(*jax.tree_util.tree_leaves(dynamic))
        return jax.tree_util.tree_unflatten(out_tree, results)

    for function in (run, leafwise):
        function.__name__ = function.__qualname__ = traced.program.name
    jitted: Any
    if in_pytree is None or out_pytree is None:
        held = [k for k, leaf in enumerate(traced.program.inputs) if leaf.donated]
        jitted = Leafwise(leafwise, (in_tree, out_tree), ins, outs, held)
    else:
        jitted = jax.jit(
            run,
            in_shardings=in_pytree,
            out_shardings=out_pytree,
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
