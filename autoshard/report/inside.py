"""Tables of what happens inside a step: layouts of activations, communication, memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autoshard.plan import units
from autoshard.plan.model import Collective, Constraint, Plan
from autoshard.report import paths
from autoshard.report.table import Column, Picture, Table


def constraints(plan: Plan, everything: bool) -> Table | None:
    """Layouts imposed inside the program, by source line; lines alike share a row.

    Split tensors before whole ones, large before small: a real program imposes hundreds.
    """
    if not plan.constraints:
        return None
    if everything:
        return constraint_table(plan.constraints)
    same: dict[object, list[Constraint]] = {}
    for c in plan.constraints:
        same.setdefault((c.dtype, c.shape, c.specs, c.reason), []).append(c)
    groups = sorted(
        same.values(), key=lambda a: (a[0].specs[-1].is_replicated, -math.prod(a[0].shape))
    )
    rows = tuple(
        (paths.lines(c.source for c in alike) or "-", *_constraint_cells(alike[0]))
        for alike in groups
    )
    pictures = tuple(Picture(alike[0].shape, alike[0].specs[-1]) for alike in groups)
    title = f"activations with a spec imposed: {len(plan.constraints)}, by source line"
    columns = (Column("line"), Column("tensor", whole=True), Column("spec"), Column("why"))
    return Table(title, columns, rows, pictures=pictures)


def constraint_table(
    found: Iterable[Constraint], title: str = "activations with a spec imposed"
) -> Table:
    """Constraints one by one."""
    every = tuple(found)
    columns = (
        Column("line", whole=True),
        Column("equation", whole=True),
        Column("slot", whole=True),
        Column("tensor", whole=True),
        Column("spec"),
        Column("why"),
    )
    rows = tuple(
        (paths.line(c.source), f"{c.at} {c.primitive}", c.slot, *_constraint_cells(c))
        for c in every
    )
    pictures = tuple(Picture(c.shape, c.specs[-1]) for c in every)
    return Table(f"{title}: {len(every)}", columns, rows, pictures=pictures)


def _constraint_cells(c: Constraint) -> tuple[str, str, str]:
    specs = " then ".join(map(str, c.specs))
    return paths.tensor(c.dtype, c.shape), specs, c.reason or c.primitive


def collectives(plan: Plan, everything: bool) -> Table | None:
    """Expected communication by kind, axes and reason, slowest first."""
    if not plan.collectives:
        return None
    if everything:
        return collective_table(plan.collectives)
    groups: dict[object, list[Collective]] = {}
    for c in plan.collectives:
        groups.setdefault((c.kind, c.axes, c.reason), []).append(c)
    columns = (
        Column("collective", whole=True),
        Column("over", whole=True),
        Column("times", number=True),
        Column("bytes each", number=True),
        Column("time", number=True),
        Column("exposed", number=True),
        Column("why"),
        Column("line"),
    )
    rows = sorted(groups.values(), key=lambda same: -sum(c.seconds for c in same))
    return Table(_traffic_title(plan.collectives), columns, tuple(map(_traffic_cells, rows)))


def collective_table(found: Iterable[Collective]) -> Table:
    """Collectives one by one, slowest first."""
    every = tuple(sorted(found, key=lambda c: -c.seconds))
    columns = (
        Column("collective", whole=True),
        Column("over", whole=True),
        Column("times", number=True),
        Column("bytes each", number=True),
        Column("time", number=True),
        Column("exposed", number=True),
        Column("tensor"),
        Column("why"),
        Column("line"),
    )
    rows = []
    for c in every:
        *cells, why, line = _traffic_cells([c])
        rows.append((*cells, paths.shorten(c.tensor), why, line))
    return Table(_traffic_title(every), columns, tuple(rows))


def _traffic_title(found: tuple[Collective, ...]) -> str:
    total = units.time(sum(c.seconds for c in found))
    return (
        f"predicted communication of one step: {sum(c.count for c in found)} collectives, {total}"
    )


def _traffic_cells(same: list[Collective]) -> tuple[str, ...]:
    least, most = min(c.bytes for c in same), max(c.bytes for c in same)
    span = ("" if least == most else "<= ") + units.size(most)
    return (
        same[0].kind,
        ", ".join(same[0].axes),
        str(sum(c.count for c in same)),
        span,
        units.time(sum(c.seconds for c in same)),
        units.time(sum(c.exposed_s for c in same)),
        same[0].reason,
        paths.lines(c.source for c in same),
    )


def alive(plan: Plan) -> Table | None:
    """What occupies memory when most is occupied, largest first."""
    p = plan.prediction
    if not p.alive_at_peak:
        return None
    where = f" ({paths.line(p.peak_at)})" if p.peak_at else ""
    columns = (Column("tensor"), Column("per device", number=True), Column("line"))
    same: dict[tuple[str, str], list[float]] = {}
    for tensor in p.alive_at_peak:
        same.setdefault((tensor.what, tensor.source), []).append(tensor.bytes_per_device)
    every = sorted(same.items(), key=lambda item: -sum(item[1]))
    rows = [
        (
            paths.shorten(what) + (f" x{len(sizes)}" if len(sizes) > 1 else ""),
            units.size(sum(sizes)),
            paths.line(source),
        )
        for (what, source), sizes in every
    ]
    rest = p.peak_bytes - sum(a.bytes_per_device for a in p.alive_at_peak)
    if rest >= 0.005 * p.peak_bytes:
        rows.append(("everything else", units.size(rest), ""))
    title = f"alive at the predicted peak{where}: {units.size(p.peak_bytes)} per device"
    return Table(title, columns, tuple(rows))
