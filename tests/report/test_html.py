"""The HTML of a plan is well formed, stands alone, and shows nothing as code that is data."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autoshard.plan.pipeline import Pipeline
from autoshard.program.spec import Spec
from autoshard.report.html import page, render
from autoshard.report.picture import svg
from autoshard.report.schedule import drawable
from autoshard.report.table import Picture
from autoshard.report.timeline import drawn
from tests.plan.sample import make_plan

VOID = {"meta", "rect", "path", "br"}


class Checker(HTMLParser):
    """Fails on tags that do not nest, and collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


@pytest.mark.parametrize("everything", [False, True])
def test_well_formed_and_alone(everything):
    found = parsed(page(make_plan(), everything))
    names = {tag for tag, _ in found.tags}
    assert {"table", "svg", "details"} <= names
    assert not names & {"script", "link", "img", "iframe", "object"}
    for _, attrs in found.tags:
        assert not {"src", "href"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)
    assert not re.search(r"url\(|@import|https?:", page(make_plan(), everything))


def test_same_content_as_text():
    found = parsed(make_plan()._repr_html_())
    for part in ("layers/attention/{query,key,value} x3", "166 ms", "gpt.py:129, 135", "fsdp"):
        assert part in found.text


def test_rows_are_as_wide_as_their_head():
    html = render(make_plan())
    for table in re.findall(r"<table>.*?</table>", html, re.S):
        heads = table.count("<th ") + table.count("<th>")
        rows = re.findall(r"<tr.*?</tr>", table, re.S)
        assert rows[1:]
        for row in rows[1:]:
            assert row.count("<td") == heads


def test_everything_is_escaped():
    evil = "<script>alert(1)</script>&\"'"
    plan = make_plan()
    plan = replace(
        plan,
        program=replace(plan.program, name=evil),
        machine=replace(plan.machine, name=evil, chip=evil),
        mesh=replace(plan.mesh, links=(evil, evil)),
        inputs=tuple(replace(x, path=evil, dtype=evil, note=evil) for x in plan.inputs),
        constraints=tuple(
            replace(c, source=evil, reason=evil, slot=evil) for c in plan.constraints
        ),
        collectives=tuple(
            replace(c, kind=evil, axes=(evil,), reason=evil) for c in plan.collectives
        ),
        prediction=replace(
            plan.prediction,
            peak_at=evil,
            alive_at_peak=tuple(
                replace(a, what=evil, source=evil) for a in plan.prediction.alive_at_peak
            ),
        ),
        certificate=replace(
            plan.certificate,
            status=evil,
            rivals=tuple(
                replace(r, name=evil, mesh=evil, remark=evil) for r in plan.certificate.rivals
            ),
        ),
        strategy=evil,
        notes=(evil,),
    )
    for everything in (False, True):
        found = parsed(page(plan, everything))
        assert "script" not in {tag for tag, _ in found.tags}
        assert found.text.count(evil) > 20


@pytest.mark.parametrize(
    ("shape", "spec", "lines", "mine"),
    [
        ((8, 8), Spec.of("data", "tensor"), 4, '<rect width="24" height="6"'),
        ((8, 8), Spec.of(None, None), 0, '<rect width="48" height="24"'),
        ((8,), Spec.of("data"), 3, '<rect width="12" height="24"'),
        ((), Spec.of(), 0, '<rect width="48" height="24"'),
        ((8, 8, 8), Spec.of("data", "tensor", None), 7, '<rect width="48" height="3"'),
        ((512, 2), Spec.of("pipe", None), 7, '<rect width="48" height="3"'),
    ],
)
def test_pictures(shape, spec, lines, mine):
    drawn = svg(Picture(shape, spec), {"data": 4, "tensor": 2, "pipe": 64})
    parsed(drawn)
    assert mine in drawn
    path = re.search(r' d="M0 0H48V24H0Z(.*?)"', drawn)
    assert path is not None
    assert path[1].count("M") == lines


def cells(html: str, style: str) -> list[tuple[float, ...]]:
    """(start, top, width, height) of all that is drawn in a style, in ticks and rows."""
    (path,) = re.findall(rf'<path class="{style}" d="([^"]*)"/>', html) or [""]
    found = re.findall(r"M(\S+) (\S+)h(\S+)v(\S+)h-\3z", path)
    return [tuple(map(float, each)) for each in found]


def test_a_pipeline_is_drawn_beside_its_table():
    html = render(replace(make_plan(), pipeline=Pipeline(4, 8)))
    found = parsed(html)
    assert "4 stages over 22 ticks, forward and backward; 24 of 88 ticks of stages are idle" in (
        found.text
    )
    for word in ("stage 3", "forward", "backward", "idle", "number: microbatch", "01234567"):
        assert word in found.text
    assert len(cells(html, "ahead")) == len(cells(html, "back")) == 4 * 8
    # Stage 2 begins two ticks after stage 0.
    first = {int(top): start for start, top, _, _ in reversed(cells(html, "ahead"))}
    assert first[2] - first[0] == pytest.approx(2)


def test_no_pipeline_no_drawing():
    assert "timeline" not in render(make_plan())


@pytest.mark.parametrize("microbatches", [16, 64, 1024])
def test_long_schedules_take_no_more_room_and_few_bytes(microbatches):
    html = drawn(drawable(Pipeline(16, microbatches).timeline()))
    parsed(html)
    widths = [int(w) for w in re.findall(r"max-width:(\d+)px\"", html)]
    assert max(widths) <= 1050
    assert len(html) < 100_000
    whole = sum(width for _, _, width, _ in cells(html, "ahead"))
    assert whole == pytest.approx(16 * microbatches, rel=0.07)  # but for the gaps


def test_several_things_in_one_tick_share_its_height():
    html = drawn(drawable([[[("F", 1), ("B", 0)], ("F", 2), ("", -1)], [[]]]))
    assert "2 of 4 ticks" in parsed(html).text
    (both, alone), (back,) = cells(html, "ahead"), cells(html, "back")
    assert both[3] == back[3] == pytest.approx(alone[3] / 2)
    assert back[1] == pytest.approx(both[1] + both[3])
    assert back[0] == both[0]


def test_unknown_work_is_drawn_and_named_escaped():
    html = drawn(drawable([[("<W>", 0)]]))
    assert "<W>" in parsed(html).text
    assert cells(html, "other")


def test_nothing_to_draw():
    assert drawn(drawable([])) == drawn(drawable([[]])) == ""
