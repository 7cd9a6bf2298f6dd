"""What every rendering of a report is made of: facts and tables, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoshard.program.spec import Spec


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and a sentence."""

    label: str
    text: str
    tone: str = ""  # "" | "good" | "warn"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name, and whether it holds numbers (set to the right, never broken)."""

    name: str
    number: bool = False
    whole: bool = False  # words that lose their sense when broken


@dataclass(frozen=True, slots=True)
class Picture:
    """A tensor and how it is cut, for renderings that can draw."""

    shape: tuple[int, ...]
    spec: Spec


@dataclass(frozen=True, slots=True)
class Timeline:
    """What several stages do at each tick, for renderings that can draw.

    Attributes:
        rows: one per stage, of cells, one per tick: all that is done in it, such as ("F", 3) for
            microbatch 3 going forward; nothing where the stage is idle.
    """

    rows: tuple[tuple[tuple[tuple[str, int], ...], ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns.

    Attributes:
        title: says whether numbers are predicted.
        rows: cells as text, as many as there are columns.
        strong: index of a row to stand out, or None.
        pictures: one per row, None where there is nothing to draw; or none at all.
        foot: a line below.
        timeline: to be drawn beside it, or None.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: int | None = None
    pictures: tuple[Picture | None, ...] = ()
    foot: str = ""
    timeline: Timeline | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report, in reading order."""

    title: str
    facts: tuple[Fact, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def cut(table: Table, most: int | None, what: str = "rows", how: str = "--all shows them") -> Table:
    """The table with at most `most` rows; the foot says how many are left out, and where."""
    left = len(table.rows) - most if most is not None else 0
    if most is None or left <= 1:  # the line that says "1 more" could as well be that row
        return table
    foot = f"... and {left} more {what}; {how}"
    return replace(
        table,
        rows=table.rows[:most],
        pictures=table.pictures[:most],
        foot="; ".join(filter(None, (table.foot, foot))),
    )
