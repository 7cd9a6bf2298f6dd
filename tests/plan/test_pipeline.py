"""When stages work: every microbatch once through all of them, in an order that can be."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.plan.pipeline import Pipeline
from autoshard.schedules import CIRCULAR, GPIPE, ONE_F_ONE_B, SCHEDULES


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    stages = draw(st.integers(2, 6))
    schedule = draw(st.sampled_from([*SCHEDULES]))
    chunks = draw(st.integers(2, 3)) if schedule == CIRCULAR else 1
    least = stages if schedule == CIRCULAR else 1
    microbatches = draw(st.integers(least, 3 * stages))
    dealt = schedule == ONE_F_ONE_B and microbatches % stages == 0 and draw(st.booleans())
    return Pipeline(stages, microbatches, schedule=schedule, chunks=chunks, dealt=dealt)


def _when(row: list[tuple[str, int]], way: str, number: int) -> list[int]:
    return [t for t, does in enumerate(row) if does == (way, number)]


@given(pipelines())
def test_every_microbatch_passes_all_stages_in_order(pipe: Pipeline) -> None:
    rows = [*pipe.timeline()]
    assert len(rows) == pipe.stages
    assert len({len(row) for row in rows}) == 1
    for row in rows:
        done = Counter(does for does in row if does[0])
        assert done == {(w, m): pipe.chunks for w in "FB" for m in range(pipe.microbatches)}
    for m in range(pipe.microbatches):
        for before, after in pairwise(rows):
            there = zip(_when(before, "F", m), _when(after, "F", m), strict=True)
            back = zip(_when(after, "B", m), _when(before, "B", m), strict=True)
            assert all(x < y for x, y in [*there, *back])
        # Round again, and back only from the last round.
        again = zip(_when(rows[-1], "F", m), _when(rows[0], "F", m)[1:], strict=False)
        assert all(x < y for x, y in again)
        assert _when(rows[-1], "F", m)[-1] < _when(rows[-1], "B", m)[0]


@given(pipelines())
def test_no_more_is_kept_than_said(pipe: Pipeline) -> None:
    for row in pipe.timeline():
        at_once, most = 0, 0
        for way, _ in row:
            at_once += {"F": 1, "B": -1, "": 0}[way]
            most = max(most, at_once)
        assert most <= pipe.at_once * pipe.chunks
    first = next(pipe.timeline())
    if pipe.schedule == ONE_F_ONE_B and pipe.microbatches >= pipe.turns_at + pipe.stages:
        going = [t for t, (way, _) in enumerate(first) if way == "F"]
        back = first.index(("B", 0))
        assert sum(t < back for t in going) == pipe.at_once


@given(pipelines())
def test_the_bubble_is_the_idle_part_of_the_timeline(pipe: Pipeline) -> None:
    cells = [does for row in pipe.timeline() for does in row]
    idle = sum(not way for way, _ in cells) / len(cells)
    if pipe.schedule == ONE_F_ONE_B:  # the columns of one direction are for that direction alone
        assert idle == pytest.approx((pipe.stages - 1) / pipe.ticks)
    assert pipe.bubble == pytest.approx(idle)


def test_more_chunks_make_a_smaller_bubble() -> None:
    plain = Pipeline(4, 8)
    circular = Pipeline(4, 8, schedule=CIRCULAR, chunks=2)
    assert circular.bubble < plain.bubble == Pipeline(4, 8, schedule=ONE_F_ONE_B).bubble


@pytest.mark.parametrize(
    "bad",
    [
        {"stages": 1, "microbatches": 4},
        {"stages": 2, "microbatches": 0},
        {"stages": 2, "microbatches": 4, "schedule": "2f2b"},
        {"stages": 2, "microbatches": 4, "schedule": CIRCULAR},
        {"stages": 2, "microbatches": 4, "schedule": GPIPE, "chunks": 2},
        {"stages": 4, "microbatches": 2, "schedule": CIRCULAR, "chunks": 2},
        {"stages": 2, "microbatches": 4, "schedule": GPIPE, "dealt": True},
        {"stages": 2, "microbatches": 3, "schedule": ONE_F_ONE_B, "dealt": True},
    ],
)
def test_what_is_no_pipeline_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"pipeline has|schedule|deals out"):
        Pipeline(**bad)
