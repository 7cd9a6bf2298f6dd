"""A plan in a notebook: one piece of static HTML without scripts or anything from outside.

Colours come from the page (`currentColor`), so that dark and light notebooks both look right, and
the output survives saving, exporting and being read without a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from autoshard.plan.model import Plan
from autoshard.report.content import report
from autoshard.report.picture import svg
from autoshard.report.table import Table
from autoshard.report.timeline import STYLE, drawn

_STYLE = """
.autoshard{font:13px/1.45 system-ui,sans-serif;max-width:72rem;overflow-x:auto}
.autoshard h3{font-size:15px;margin:.2em 0 .5em}
.autoshard dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1em;margin:0 0 .8em}
.autoshard dt{opacity:.65}.autoshard dd{margin:0}
.autoshard .good{color:#2e9e5b}.autoshard .warn{color:#d64545;font-weight:600}
.autoshard details{margin:.5em 0}.autoshard summary{cursor:pointer;font-weight:600}
.autoshard table{border-collapse:collapse;margin:.3em 0 .6em;background:none}
.autoshard th{font-weight:400;opacity:.65;text-align:left;
 border-bottom:1px solid color-mix(in srgb,currentColor 35%,transparent)}
.autoshard th,.autoshard td{padding:.15em 1.1em .15em 0;vertical-align:middle;text-align:left}
.autoshard td.number,.autoshard th.number{text-align:right;white-space:nowrap;
 font-variant-numeric:tabular-nums}
.autoshard td.code{font-family:ui-monospace,monospace;font-size:12px}
.autoshard tr.strong td{font-weight:600}
.autoshard svg{display:block}.autoshard svg path{fill:none;stroke:currentColor;stroke-width:.75}
.autoshard svg .mine{fill:#3b82f6;fill-opacity:.75}
.autoshard .foot{opacity:.65}
"""
_CODE = frozenset(
    {"path", "tensor", "spec", "spec at rest", "line", "equation", "slot", "forward", "backward"}
)


def render(plan: Plan, everything: bool = False) -> str:
    """The plan as a fragment of HTML, as notebooks want it.

    Args:
        plan: any plan.
        everything: every leaf, constraint and collective by itself, instead of groups.
    """
    return "".join(_parts(plan, everything))


def page(plan: Plan, everything: bool = False) -> str:
    """The plan as a whole document, for a file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(plan.program.name)} on {escape(plan.machine.name)}</title></head>"
        f"<body>{render(plan, everything)}</body></html>\n"
    )


def _parts(plan: Plan, everything: bool) -> Iterator[str]:
    content = report(plan, everything)
    style = _STYLE + (STYLE if any(table.timeline for table in content.tables) else "")
    yield f'<div class="autoshard"><style>{style}</style><h3>{escape(content.title)}</h3><dl>'
    for fact in content.facts:
        tone = f' class="{fact.tone}"' if fact.tone else ""
        yield f"<dt>{escape(fact.label)}</dt><dd{tone}>{escape(fact.text)}</dd>"
    yield "</dl>"
    if content.notes:
        yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in content.notes) + "</ul>"
    for table in content.tables:
        yield "".join(_table(table, plan.mesh.sizes))
    yield "</div>"


def _table(table: Table, sizes: Mapping[str, int]) -> Iterator[str]:
    yield f"<details open><summary>{escape(table.title)}</summary>"
    if table.timeline is not None:
        yield drawn(table.timeline)
    yield "<table><thead><tr>"
    if table.pictures:
        yield '<th aria-label="how it is cut"></th>'
    for column in table.columns:
        yield f"<th{_class(column.name, column.number)}>{escape(column.name)}</th>"
    yield "</tr></thead><tbody>"
    for i, row in enumerate(table.rows):
        yield '<tr class="strong">' if i == table.strong else "<tr>"
        if table.pictures:
            picture = table.pictures[i]
            yield f"<td>{'' if picture is None else svg(picture, sizes)}</td>"
        for column, cell in zip(table.columns, row, strict=True):
            yield f"<td{_class(column.name, column.number)}>{escape(cell)}</td>"
        yield "</tr>"
    yield "</tbody></table>"
    if table.foot:
        yield f'<div class="foot">{escape(table.foot)}</div>'
    yield "</details>"


def _class(name: str, number: bool) -> str:
    return ' class="number"' if number else ' class="code"' if name in _CODE else ""
