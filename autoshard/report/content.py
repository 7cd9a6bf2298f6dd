"""What a report on a plan says, before it is text or HTML."""

from __future__ import annotations

from collections.abc import Iterator

from autoshard.plan import units
from autoshard.plan.model import Plan
from autoshard.report import inside, schedule, state
from autoshard.report.table import Column, Fact, Report, Table, cut
from autoshard.schedules import SCHEDULES

_MOST_ROWS = 10


def report(plan: Plan, everything: bool = False) -> Report:
    """The report.

    Args:
        plan: any plan.
        everything: every leaf, constraint and collective by itself, instead of groups.
    """
    most = None if everything else _MOST_ROWS
    tables = (
        (_rivals(plan), "rivals"),
        (schedule.table(plan), "stages"),
        (state.parameters(plan, everything), "groups"),
        (state.optimizer(plan, everything), "groups"),
        (state.data(plan, everything), "groups"),
        (inside.collectives(plan, everything), "groups"),
        (inside.constraints(plan, everything), "lines"),
        (inside.alive(plan), "tensors"),
    )
    return Report(
        title=f"{plan.program.name} on {plan.machine.name}",
        facts=tuple(_facts(plan)),
        tables=tuple(cut(table, most, what) for table, what in tables if table),
        notes=(*state.giants(plan), *plan.notes),
    )


def brief(plan: Plan, how: str) -> Report:
    """What fits on one screen: the choice, its closest rivals, parameters and communication.

    Args:
        plan: any plan.
        how: where the rest is to be seen, in a few words.
    """
    tables = (
        (_rivals(plan), 5, "rivals"),
        (state.parameters(plan, False), 5, "groups"),
        (inside.collectives(plan, False), 4, "groups"),
    )
    return Report(
        title=f"{plan.program.name} on {plan.machine.name}",
        facts=tuple(_facts(plan)),
        tables=tuple(cut(table, most, what, how) for table, most, what in tables if table),
        notes=(),
    )


def copies(plan: Plan) -> str:
    """How many run side by side, on how many devices each, and what they do together."""
    each = f", each on {plan.mesh.n_devices} devices" if plan.copies > 1 else ""
    return f"{plan.copies}{each}: {plan.calls_per_s:,.4g} calls per second"


def _facts(plan: Plan) -> Iterator[Fact]:
    machine = plan.machine
    kind = "no devices" if not machine.n_devices else f"{machine.n_devices} x {machine.chip}"
    yield Fact("machine", f"{machine.name} ({kind})")
    yield Fact("mesh", mesh(plan))
    if plan.objective == "throughput":
        yield Fact("copies", copies(plan))
    how = rewrites(plan)
    if how:
        yield Fact("rewritten", how)
    p = plan.prediction
    hidden = p.communication_s - p.exposed_s
    parts = f"compute {units.time(p.compute_s)} + communication {units.time(p.exposed_s)}"
    if hidden > 0.005 * p.step_s:
        parts += f", {units.time(hidden)} more hidden"
    yield Fact("predicted", f"step {units.time(p.step_s)} ({parts})")
    fits = p.peak_bytes <= machine.memory_limit_bytes
    yield Fact(
        "memory",
        f"predicted peak {units.size(p.peak_bytes)} of {units.size(machine.memory_limit_bytes)}"
        f" per device{'' if fits else ', too much'}, state {units.size(p.state_bytes)}",
        "" if fits else "warn",
    )
    yield _certificate(plan)


REMAT_SAID = {
    "none": "scanned layers not rematerialised",
    "selective": "scanned layers rematerialised but for long products",
    "full": "scanned layers rematerialised",
}


def rewrites(plan: Plan) -> str:
    """How the program that runs differs from the one written; "" where it does not."""
    said = []
    if plan.microbatches > 1:
        said.append(f"{plan.microbatches} microbatches, gradients accumulated")
    if plan.remat in REMAT_SAID:
        said.append(REMAT_SAID[plan.remat])
    if plan.pipeline is not None:
        pipe = plan.pipeline
        said.append(
            f"layers in {pipe.stages} stages, {pipe.microbatches} microbatches,"
            f" {SCHEDULES[pipe.schedule]} ({pipe.schedule}), bubble {pipe.bubble:.1%}"
        )
    return "; ".join(said)


def mesh(plan: Plan) -> str:
    """The mesh with what each axis lies on: "data 4 on ICI y x tensor 2 on ICI x"."""
    links = plan.mesh.links or ("",) * len(plan.mesh.axis_names)
    axes = (
        f"{name} {size}" + (f" on {link}" if link and size > 1 else "")
        for (name, size), link in zip(plan.mesh.sizes.items(), links, strict=False)
    )
    return " x ".join(axes) or "one device"


def _certificate(plan: Plan) -> Fact:
    c = plan.certificate
    which = "no plan with repeated layers laid out alike" if c.alike else "no plan"
    if c.open_meshes:
        which += f" (meshes of three axes that were not ruled out: {c.open_meshes})"
    bound = f"{which} is predicted below {units.time(c.lower_bound_s)}"
    searched = f"searched {units.time(c.search_s)}"
    gap = f"this one is at most {units.percent(c.gap)} from it"
    if c.status == "optimal":
        return Fact(
            "certificate", f"optimal: {bound}, gap {units.percent(c.gap)}; {searched}", "good"
        )
    if c.status == "given":
        known = f"; {bound}, {gap}" if c.lower_bound_s else ", not searched"
        return Fact("certificate", f"given by strategy {plan.strategy!r}{known}")
    return Fact("certificate", f"{c.status}: {bound}, {gap}; {searched}")


def _rivals(plan: Plan) -> Table | None:
    if not plan.certificate.rivals:
        return None
    p = plan.prediction
    own = (
        f"this plan ({plan.strategy})",
        str(plan.mesh),
        units.time(p.step_s),
        units.ratio(1, 1),
        units.size(p.peak_bytes),
        "",
    )
    rivals = sorted(
        plan.certificate.rivals, key=lambda r: (r.step_s is None, r.step_s or r.peak_bytes or 0)
    )
    rows = tuple(
        (
            r.name,
            r.mesh or "-",
            "-" if r.step_s is None else units.time(r.step_s),
            "-" if r.step_s is None else units.ratio(p.step_s, r.step_s),
            "-" if r.peak_bytes is None else units.size(r.peak_bytes),
            r.remark,
        )
        for r in rivals
    )
    columns = (
        Column("rival"),
        Column("mesh", whole=True),
        Column("step", number=True),
        Column("ratio", number=True),
        Column("peak", number=True),
        Column("remark"),
    )
    return Table(
        "predicted against rivals, by the same cost model", columns, (own, *rows), strong=0
    )
