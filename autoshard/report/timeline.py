"""A drawing of when the stages of a pipeline work: time to the right, a row per stage.

Cells are as wide as the page lets them be, and as many as there are ticks; rows keep their height.
So cells are paths in a picture that is stretched, and all writing stands outside of it, where
nothing is stretched. Numbers of microbatches leave where cells get too narrow for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from autoshard.report.table import Timeline

# px
_TICK = 22  # the widest that is drawn
_PAGE = 1050  # the widest that all ticks together are drawn
_DIGIT, _AROUND = 6.5, 3  # of a number, and beside it
_ROW, _LEAST_ROW, _ALL_ROWS = 22, 6, 360
_TEXT = 12  # height of a line of writing
_LABELS = 56  # what stands before the rows

_GAP = 0.12  # of a row, between it and the next
_APART = 0.06  # of a tick, between it and the next, where ticks are at least
_LEAST_APART = 6  # px wide


class _Look(NamedTuple):
    """How work of one kind is drawn, and called in the legend."""

    style: str
    called: str


_LOOKS = {"F": _Look("ahead", "forward"), "B": _Look("back", "backward")}
_OTHER = "other"  # style of what has no look

STYLE = f"""
.autoshard .timeline{{display:flex;max-width:{_PAGE + _LABELS}px;margin:.4em 0 .2em}}
.autoshard .timeline>div{{flex:1;min-width:0;container-type:inline-size}}
.autoshard .timeline svg{{overflow:visible}}
.autoshard .timeline text{{font-size:11px;fill:currentColor;dominant-baseline:central}}
.autoshard .timeline .ahead,.autoshard .legend .ahead{{fill:#2563eb;stroke:none}}
.autoshard .timeline .back,.autoshard .legend .back{{fill:#f59e0b;stroke:none}}
.autoshard .timeline .other,.autoshard .legend .other{{fill:#8b8b8b;stroke:none}}
.autoshard .timeline .idle,.autoshard .legend .idle{{fill:currentColor;fill-opacity:.08}}
.autoshard .timeline text.ahead{{fill:#fff}}.autoshard .timeline text.back{{fill:#000}}
.autoshard .timeline text.other{{fill:#fff}}
.autoshard .legend{{display:flex;flex-wrap:wrap;gap:.2em 1.2em;padding-left:{_LABELS}px}}
.autoshard .legend span{{display:flex;align-items:center;gap:.4em}}
"""


class _Work(NamedTuple):
    """One piece of work: where in the drawing, and of which microbatch."""

    kind: str
    microbatch: int
    tick: int
    top: float  # in rows
    height: float


def drawn(timeline: Timeline) -> str:
    """The drawing, with a title that says in words what it shows, and a legend."""
    ticks = max(map(len, timeline.rows), default=0)
    if not ticks:
        return ""
    work = list(_work(timeline))
    row = _row_height(timeline)
    height = row * len(timeline.rows)
    width = min(_TICK * ticks, _PAGE)
    room = _room(work)
    # On the widest page; on a narrow one, numbers that are written are hidden.
    numbered = width / ticks >= room and all(w.height * row >= _TEXT - 1 for w in work)
    return "".join(
        (
            '<div class="timeline">',
            _labels(len(timeline.rows), row),
            f'<div style="max-width:{width}px">',
            f'<svg width="100%" height="{height:g}" role="img">',
            f"<title>{escape(_in_words(timeline, ticks))}</title>",
            f'<svg width="100%" height="{height:g}" viewBox="0 0 {ticks} {len(timeline.rows)}"'
            ' preserveAspectRatio="none">',
            *_cells(timeline, work, _APART if width / ticks >= _LEAST_APART else 0.0),
            "</svg>",
            *(_numbers(work, ticks, row, room) if numbered else ()),
            "</svg></div></div>",
            _legend(work, numbered),
        )
    )


def _work(timeline: Timeline) -> Iterator[_Work]:
    for k, row in enumerate(timeline.rows):
        for tick, cell in enumerate(row):
            for part, (kind, microbatch) in enumerate(cell):
                height = (1 - _GAP) / len(cell)
                yield _Work(kind, microbatch, tick, k + _GAP / 2 + part * height, height)


def _row_height(timeline: Timeline) -> float:
    """Of one row; higher where a stage does several things in one tick."""
    most = max((len(cell) for row in timeline.rows for cell in row), default=1)
    wanted = max(_ROW, most * (_TEXT + 2))
    return max(_LEAST_ROW, min(wanted, _ALL_ROWS // max(len(timeline.rows), 1)))


def _room(work: Sequence[_Work]) -> float:
    """How wide a tick must be for all numbers."""
    most = max((w.microbatch for w in work), default=0)
    return _DIGIT * len(str(most)) + _AROUND


def _labels(n: int, row: float) -> str:
    """The numbers of the stages, as many as have room."""
    every = -(-_TEXT // int(row))
    texts = (
        f'<text x="{_LABELS - 8}" y="{(k + 0.5) * row:g}" text-anchor="end">stage {k}</text>'
        for k in range(0, n, every)
    )
    return f'<svg width="{_LABELS}" height="{n * row:g}" aria-hidden="true">{"".join(texts)}</svg>'


def _cells(timeline: Timeline, work: Sequence[_Work], apart: float) -> Iterator[str]:
    for k, row in enumerate(timeline.rows):
        yield (
            f'<rect class="idle" y="{k + _GAP / 2:g}" width="{len(row)}" height="{1 - _GAP:g}"/>'
        )
    for kind in _kinds(work):
        pieces = (
            f"M{start:g} {top:g}h{width:g}v{height:g}h-{width:g}z"
            for start, top, width, height in _runs([w for w in work if w.kind == kind], apart)
        )
        yield f'<path class="{_style(kind)}" d="{"".join(pieces)}"/>'


def _runs(work: Sequence[_Work], apart: float) -> Iterator[tuple[float, float, float, float]]:
    """(start, top, width, height) of every piece; without a gap between them, of every run."""
    rows: dict[tuple[float, float], list[int]] = {}
    for w in work:
        rows.setdefault((w.top, w.height), []).append(w.tick)
    for (top, height), at in rows.items():
        start = 0
        for k, tick in enumerate(at):
            if apart or k + 1 == len(at) or at[k + 1] != tick + 1:
                yield at[start] + apart / 2, top, tick + 1 - at[start] - apart, height
                start = k + 1


def _numbers(work: Sequence[_Work], ticks: int, row: float, room: float) -> Iterator[str]:
    """The microbatches' numbers, as long as the ticks are wide enough for them."""
    least = f"n{ticks}-{room * ticks:.0f}"
    yield (
        f"<style>@container (max-width:{room * ticks:.0f}px)"
        f"{{.autoshard .{least}{{display:none}}}}</style>"
    )
    yield f'<g class="{least}" text-anchor="middle" aria-hidden="true">'
    for w in work:
        x, y = (w.tick + 0.5) / ticks, (w.top + w.height / 2) * row
        yield f'<text class="{_style(w.kind)}" x="{x:.3%}" y="{y:g}">{w.microbatch}</text>'
    yield "</g>"


def _kinds(work: Sequence[_Work]) -> list[str]:
    """All that there are, known ones first."""
    found = dict.fromkeys(w.kind for w in work)
    return [*(k for k in _LOOKS if k in found), *(k for k in found if k not in _LOOKS)]


def _style(kind: str) -> str:
    return _LOOKS[kind].style if kind in _LOOKS else _OTHER


def _called(kind: str) -> str:
    return _LOOKS[kind].called if kind in _LOOKS else kind


def _in_words(timeline: Timeline, ticks: int) -> str:
    kinds = " and ".join(_called(kind) for kind in _kinds(list(_work(timeline))))
    idle = sum(not cell for row in timeline.rows for cell in row)
    every = sum(map(len, timeline.rows))
    return (
        f"{len(timeline.rows)} stages over {ticks} ticks, {kinds};"
        f" {idle} of {every} ticks of stages are idle"
    )


def _legend(work: Sequence[_Work], numbered: bool) -> str:
    entries = [(_style(kind), _called(kind)) for kind in _kinds(work)]
    swatches = (
        f'<span><svg width="12" height="12" aria-hidden="true"><rect class="{style}" width="12"'
        f' height="12"/></svg>{escape(called)}</span>'
        for style, called in (*entries, ("idle", "idle"))
    )
    numbers = "<span>number: microbatch</span>" if numbered else ""
    return f'<div class="legend">{"".join(swatches)}{numbers}</div>'
