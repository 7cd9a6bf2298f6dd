"""When the stages of a pipeline work: time against stages, in characters."""

from __future__ import annotations

from autoshard.plan.model import Plan
from autoshard.report.table import Column, Table

# Ticks of either direction that are drawn; the middle of long schedules is all alike.
_DRAWN = 30
_IDLE = "·"


def table(plan: Plan) -> Table | None:
    """A row per stage, a character per tick: the last digit of the microbatch's number."""
    pipe = plan.pipeline
    if pipe is None:
        return None
    rows = []
    for stage, row in enumerate(pipe.timeline()):
        drawn = "".join(_IDLE if not what else str(number % 10) for what, number in row)
        forward, back = drawn[: pipe.ticks], drawn[pipe.ticks :]
        if pipe.ticks > _DRAWN:
            forward, back = f"{forward[:_DRAWN]}…", f"…{back[-_DRAWN:]}"
        rows.append((str(stage), forward, back))
    each = f"{pipe.bubble:.1%} of the ticks are idle ({_IDLE})"
    return Table(
        title="schedule: a microbatch per tick, time from left to right",
        columns=(
            Column("stage", number=True),
            Column("forward", whole=True),
            Column("backward", whole=True),
        ),
        rows=tuple(rows),
        foot=each,
    )
