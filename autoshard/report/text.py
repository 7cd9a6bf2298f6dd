"""A plan in a terminal."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from autoshard.plan.model import Plan
from autoshard.report import content
from autoshard.report.table import Fact, Report, Table

_TONE = {"": "", "good": "green", "warn": "bold red"}
_PLAIN_WIDTH = 100
_MOST_UNBROKEN = 24


def render(plan: Plan, width: int | None = None, everything: bool = False) -> str:
    """The plan as plain text, without colour.

    Args:
        plan: any plan.
        width: of the terminal, in characters; found out when None.
        everything: every leaf, constraint and collective by itself, instead of groups.
    """
    return plain(renderable(plan, everything), width)


def plain(content: RenderableType, width: int | None = None) -> str:
    """What rich prints, without control sequences or blanks at the ends of lines."""
    columns = width or shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns
    stream = io.StringIO()
    Console(
        file=stream, width=columns, color_system=None, force_terminal=False, legacy_windows=False
    ).print(content)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def renderable(plan: Plan, everything: bool = False) -> RenderableType:
    """The plan for `rich.print`, which minds width and NO_COLOR."""
    return Group(*_parts(content.report(plan, everything)))


def brief(plan: Plan, how: str) -> RenderableType:
    """One screen of the plan; `how` says where the rest is to be seen."""
    return Group(*_parts(content.brief(plan, how)))


def _parts(report: Report) -> Iterator[RenderableType]:
    yield Text(report.title, style="bold")
    yield facts(report.facts)
    for each in report.tables:
        yield table(each)
    if report.notes:
        yield Text("\nnotes", style="bold")
        for note in report.notes:
            yield _hanging("- ", Text(note))


def facts(found: tuple[Fact, ...]) -> RenderableType:
    """Labels on the left, sentences on the right."""
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for fact in found:
        grid.add_row(fact.label, Text(fact.text, style=_TONE[fact.tone]))
    return grid


def table(content: Table) -> RenderableType:
    """One table under its title."""
    grid = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False,
        header_style="dim", border_style="dim",
    )  # fmt: skip
    for k, column in enumerate(content.columns):
        grid.add_column(
            column.name,
            justify="right" if column.number else "left",
            no_wrap=column.number or column.whole,
            overflow="fold",
            min_width=max(map(_unbroken, (column.name, *(row[k] for row in content.rows)))),
        )
    for i, row in enumerate(content.rows):
        grid.add_row(*map(_Cell, row), style="bold" if i == content.strong else "")
    parts: list[RenderableType] = [Text(f"\n{content.title}", style="bold"), grid]
    if content.foot:
        parts.append(Text(content.foot, style="dim"))
    return Group(*parts)


_BREAKS = re.compile(r"(?<=[ /,])")


def _unbroken(text: str) -> int:
    """What a column needs so that no word is broken, within reason."""
    return min(_MOST_UNBROKEN, max(len(part.rstrip()) for part in _BREAKS.split(text)))


class _Cell:
    """Text that is broken after a slash or a comma too, as paths are read; never markup."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_unbroken(self.text), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in _BREAKS.split(self.text):
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += part
        justify = options.justify
        yield Text("\n".join(s.rstrip() for s in lines), overflow="fold", justify=justify)


def _hanging(mark: str, text: Text) -> RenderableType:
    grid = RichTable.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return Padding(grid, 0)
