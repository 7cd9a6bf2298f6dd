"""Why one tensor lies as it does: everything the plan says about a path or a source line."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from autoshard.plan import units
from autoshard.plan.model import Collective, Constraint, LeafPlan, Plan
from autoshard.report import inside, paths
from autoshard.report.table import Fact
from autoshard.report.text import facts, plain, table


def render(plan: Plan, part: str, width: int | None = None) -> str:
    """`renderable` as plain text; one sentence where nothing matches."""
    found = renderable(plan, part)
    return nothing(plan, part) if found is None else plain(found, width)


def nothing(plan: Plan, part: str) -> str:
    """What to say when nothing matches."""
    return (
        f"no leaf, activation or collective of the plan of {plan.program.name} matches {part!r};"
        f" paths look like {plan.inputs[0].path!r}"
        if plan.inputs
        else f"the plan of {plan.program.name} has no inputs"
    )


def renderable(plan: Plan, part: str) -> RenderableType | None:
    """What was decided for everything that matches, and why; None where nothing does.

    Args:
        plan: any plan.
        part: part of a pytree path, as JAX prints it or with slashes; or of a source "file:line",
            a primitive or a reason.
    """
    leaves = [leaf for leaf in plan.inputs if _in_path(leaf, part)]
    constraints = [c for c in plan.constraints if _in_constraint(c, part)]
    # A plan does not say which equations read a leaf; its shape, or that of one layer of a stack
    # that is looped over, is what a person would look for.
    shapes = {s for x in leaves if len(x.shape) > 1 for s in (x.shape, x.shape[1:]) if len(s) > 1}
    alike = [c for c in plan.constraints if c.shape in shapes and c not in constraints]
    lines = {paths.line(c.source) for c in (*constraints, *alike) if c.source}
    collectives = [c for c in plan.collectives if _in_collective(c, part, lines)]
    parts: list[RenderableType] = []
    for leaf in leaves:
        gap = "\n" if parts else ""
        parts += [Text(f"{gap}{leaf.path}", style="bold"), facts(tuple(_leaf(plan, leaf)))]
    if alike:
        parts.append(table(inside.constraint_table(alike, "in use, tensors of the same shape")))
    if constraints:
        parts.append(table(inside.constraint_table(constraints)))
    if collectives:
        parts.append(table(inside.collective_table(collectives)))
    return Group(*parts) if parts else None


def _leaf(plan: Plan, leaf: LeafPlan) -> Iterator[Fact]:
    sizes = plan.mesh.sizes
    yield Fact("is", f"{leaf.role}, {paths.tensor(leaf.dtype, leaf.shape)}")
    yield Fact("spec at rest", str(leaf.spec))
    local = paths.tensor(leaf.dtype, leaf.spec.local_shape(leaf.shape, sizes))
    pieces = leaf.spec.shards(sizes)
    copies = plan.mesh.n_devices // pieces
    yield Fact(
        "per device",
        f"{local}, {units.size(leaf.bytes_per_device)}: {pieces} pieces, {copies} of each",
    )
    yield Fact("why", leaf.note or _why(plan))


def _why(plan: Plan) -> str:
    """A leaf without a remark of its own: its spec is part of one answer to the whole program."""
    c = plan.certificate
    if c.status == "given":
        return f"strategy {plan.strategy!r} sets it"
    return (
        "chosen together with every other spec, for the least predicted step:"
        f" {c.status}, gap {units.percent(c.gap)}"
    )


def _in_path(leaf: LeafPlan, part: str) -> bool:
    return part in leaf.path or part in "/".join(paths.steps(leaf.path))


def _in_constraint(c: Constraint, part: str) -> bool:
    return part in c.source or part == c.primitive or part in c.reason


def _in_collective(c: Collective, part: str, lines: set[str]) -> bool:
    return part in c.source or paths.line(c.source) in lines or part in c.reason or part in c.scope
