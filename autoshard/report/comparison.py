"""A plan's predictions beside what the compiler made of it, as facts and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from autoshard.plan import units
from autoshard.report.table import Column, Fact, Table, cut
from autoshard.report.text import facts, table

if TYPE_CHECKING:  # what is compared is made by a room that imports JAX; showing it needs none
    from autoshard.verify.compare import Comparison, Row
    from autoshard.verify.unplanned import Unplanned

_MOST = 12
# Below this share of the bytes, rows are counted and not shown.
_TRIFLE = 1e-3


def renderable(found: Comparison, everything: bool = False) -> RenderableType:
    """For `rich.print`.

    Args:
        found: the comparison.
        everything: every unplanned and missing collective, however small.
    """
    plan = found.plan
    title = f"{plan.program.name} on {plan.machine.name}: predicted and compiled"
    tables = [memory(found), communication(found)]
    most = None if everything else _MOST
    if found.unplanned:
        tables.append(cut(unplanned(found, everything), most, "collectives"))
    if found.missing:
        tables.append(cut(missing(found, everything), most, "collectives"))
    return Group(
        Text(title, style="bold"),
        facts(_facts(found)),
        *(table(t) for t in tables if t.rows),
    )


def _facts(found: Comparison) -> tuple[Fact, ...]:
    plan, witness = found.plan, found.witness
    within = f"{units.percent(found.tolerance)}"
    verdict = f"agree within {within}" if found.agrees else f"differ by more than {within}"
    facts = [
        Fact("verdict", f"prediction and compiler {verdict}", "good" if found.agrees else "warn"),
        Fact("plan", f"{plan.strategy} on mesh {plan.mesh}"),
        Fact("compiler", f"XLA for {plan.machine.chip}, {units.time(witness.compile_s)}"),
    ]
    if not found.checks_bytes:
        facts.append(Fact("", "this compiler sends other bytes than others would: not compared"))
    facts += [Fact("taken as equal", f"{why}: {n} times") for why, n in found.remarks]
    facts += [Fact("partitioner", text, "warn") for text in dict.fromkeys(witness.complaints)]
    return tuple(facts)


def memory(found: Comparison) -> Table:
    """Bytes on one device."""
    plan, witness = found.plan, found.witness
    kept = witness.argument_bytes + witness.output_bytes - witness.alias_bytes
    rows = (
        _bytes_row("peak", plan.prediction.peak_bytes, witness.peak_bytes),
        ("arguments and results", "", units.size(kept), ""),
        ("temporaries", "", units.size(witness.temporary_bytes), ""),
    )
    columns = (
        Column("memory per device"),
        Column("predicted", number=True),
        Column("compiled", number=True),
        Column("difference", number=True),
    )
    return Table("Memory", columns, rows, strong=0)


def communication(found: Comparison) -> Table:
    """Every kind of collective over the same axes, in a step."""
    columns = (
        Column("collective", whole=True),
        Column("over", whole=True),
        Column("planned", number=True),
        Column("compiled", number=True),
        Column("predicted bytes", number=True),
        Column("compiled bytes", number=True),
        Column("difference", number=True),
    )
    rows = tuple(
        (
            row.kind,
            "+".join(row.axes),
            str(row.planned_count),
            str(row.count),
            *_bytes_row("", row.predicted_bytes, row.compiled_bytes, found.checks_bytes)[1:],
        )
        for row in found.rows
    )
    foot = "tensors sent in a step, trips of loops counted; bytes of the larger side on one device"
    return Table("Collectives", columns, rows, foot=foot)


def unplanned(found: Comparison, everything: bool = False) -> Table:
    """What is compiled and nobody planned."""
    whole = _largest(found)
    columns = (
        Column("unplanned", whole=True),
        Column("over", whole=True),
        Column("times", number=True),
        Column("bytes", number=True),
        Column("tensor"),
        Column("from"),
        Column("probably"),
    )
    shown = [u for u in found.unplanned if everything or u.seen.total_bytes >= _TRIFLE * whole]
    rows = tuple(_unplanned_row(u) for u in shown)
    return Table("Compiled and not planned", columns, rows, foot=_left(found.unplanned, shown))


def missing(found: Comparison, everything: bool = False) -> Table:
    """What is planned and was not compiled."""
    whole = _largest(found)
    columns = (
        Column("missing", whole=True),
        Column("over", whole=True),
        Column("times", number=True),
        Column("bytes", number=True),
        Column("tensor"),
        Column("from"),
        Column("planned because"),
    )
    shown = [c for c in found.missing if everything or c.bytes * c.count >= _TRIFLE * whole]
    rows = tuple(
        (c.kind, "+".join(c.axes), str(c.count), units.size(c.bytes), c.tensor,
         short(c.source), c.reason)
        for c in shown
    )  # fmt: skip
    return Table("Planned and not compiled", columns, rows, foot=_left(found.missing, shown))


def _unplanned_row(item: Unplanned) -> tuple[str, ...]:
    s = item.seen
    over = "+".join(s.axes) + ("" if s.whole else " (part)")
    where = " ".join(filter(None, (short(s.source), s.op_name.rpartition("/")[2].rstrip(")"))))
    return (
        s.kind,
        over,
        str(s.count),
        units.size(s.bytes),
        s.tensor,
        where or "XLA",
        item.why,
    )


def _left(every: Sequence[object], shown: Sequence[object]) -> str:
    n = len(every) - len(shown)
    return f"and {n} of less than a thousandth of the bytes each" if n else ""


def _largest(found: Comparison) -> float:
    return max(
        sum(r.predicted_bytes for r in found.rows), sum(r.compiled_bytes for r in found.rows)
    )


def _bytes_row(
    what: str, predicted: float, compiled: float, comparable: bool = True
) -> tuple[str, ...]:
    difference = "-"
    if compiled and predicted and comparable:
        off = predicted / compiled - 1
        difference = f"{100 * off:+.1f} %" if off < 10 else f"{off + 1:.0f}x"
    return (what, units.size(predicted), units.size(compiled), difference)


def short(source: str) -> str:
    """The file's name and the line, without directories."""
    return os.path.basename(source)


def as_json(found: Comparison) -> dict[str, object]:
    """What scripts ask of a comparison."""
    return {
        "agrees": found.agrees,
        "tolerance": found.tolerance,
        "predicted_peak_bytes": found.plan.prediction.peak_bytes,
        "compiled_peak_bytes": found.witness.peak_bytes,
        "checks_bytes": found.checks_bytes,
        "collectives": [_row_json(row) for row in found.rows],
        "unplanned": [
            {
                "kind": u.seen.kind,
                "axes": list(u.seen.axes),
                "count": u.seen.count,
                "bytes": u.seen.total_bytes,
                "tensor": u.seen.tensor,
                "source": u.seen.source,
                "op_name": u.seen.op_name,
                "instead": u.instead,
                "why": u.why,
            }
            for u in found.unplanned
        ],
        "missing": [
            {
                "kind": c.kind,
                "axes": list(c.axes),
                "count": c.count,
                "bytes": c.bytes * c.count,
                "tensor": c.tensor,
                "source": c.source,
                "reason": c.reason,
            }
            for c in found.missing
        ],
        "complaints": list(found.witness.complaints),
        "compile_s": found.witness.compile_s,
        "mesh": found.plan.mesh.sizes,
        "strategy": found.plan.strategy,
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "kind": row.kind,
        "axes": list(row.axes),
        "count": row.count,
        "planned_count": row.planned_count,
        "predicted_bytes": row.predicted_bytes,
        "compiled_bytes": row.compiled_bytes,
    }
