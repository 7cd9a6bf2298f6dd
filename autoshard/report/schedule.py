"""When the stages of a pipeline work: time against stages, in characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autoshard.plan import units
from autoshard.plan.model import Plan
from autoshard.report.table import Column, Table, Timeline

# Columns that are drawn of the beginning and of the end; the middle of long schedules is all alike.
_DRAWN = 30
_IDLE = "·"
_BACK = "abcdefghij"


def table(plan: Plan) -> Table | None:
    """A row per stage, a character per microbatch: the last digit of its number, letters back."""
    pipe = plan.pipeline
    if pipe is None:
        return None
    rows = []
    for stage, row in enumerate(pipe.timeline()):
        drawn = "".join(map(_cell, row))
        if len(drawn) > 2 * _DRAWN:
            drawn = f"{drawn[:_DRAWN]}…{drawn[-_DRAWN:]}"
        rows.append((str(stage), drawn))
    return Table(
        title="schedule: time from left to right, microbatches 0-9 forward and a-j back",
        columns=(Column("stage", number=True), Column("does", whole=True)),
        rows=tuple(rows),
        foot=(
            f"{pipe.bubble:.1%} of the time is idle ({_IDLE}); one program runs on all stages, and"
            f" each holds up to {units.size(plan.prediction.peak_bytes)} at once"
        ),
        timeline=drawable(pipe.timeline()),
    )


def _cell(does: tuple[str, int]) -> str:
    way, number = does
    if not way:
        return _IDLE
    return str(number % 10) if way == "F" else _BACK[number % 10]


def drawable(rows: Iterable[Iterable[Any]]) -> Timeline:
    """Rows of `("F" | "B" | "", microbatch)`, or of several such pairs a tick."""
    return Timeline(tuple(tuple(_work(at) for at in row) for row in rows))


def _work(at: Any) -> tuple[tuple[str, int], ...]:
    pairs = (at,) if at and isinstance(at[0], str) else at
    return tuple((str(what), int(number)) for what, number in pairs if what)
