"""The HTML of a plan is well formed, stands alone, and shows nothing as code that is data."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autoshard.program.spec import Spec
from autoshard.report.html import page, render
from autoshard.report.picture import svg
from autoshard.report.table import Picture
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
