"""Layers of several kinds cut into stages: the same numbers as without, on eight devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoshard import PipelineError, autoshard, plan
from autoshard.plan.model import Plan
from autoshard.verify.equality import compare_steps
from tests.execute.mixed import in_loops, unrolled
from tests.execute.models import check

# Name -> step, mesh, microbatches, schedule.
CASES: dict[str, tuple[Any, dict[str, int], int, str]] = {
    "unrolled": (unrolled(), {"pipe": 2, "data": 2, "tensor": 2}, 2, "gpipe"),
    "unrolled, dropout and remat": (
        unrolled(rate=0.25, remat=True),
        {"pipe": 4, "data": 2},
        4,
        "1f1b",
    ),
    "unrolled, accumulated": (
        unrolled(rate=0.25, pieces=2),
        {"pipe": 2, "tensor": 4},
        2,
        "gpipe",
    ),
    # One layer of the first kind, and four stages.
    "in loops": (
        in_loops([(1, "a", 12), (5, "r", 20)], rate=0.25),
        {"pipe": 4, "tensor": 2},
        4,
        "gpipe",
    ),
    "in loops, accumulated": (
        in_loops([(2, "a", 12), (1, "m", 20), (2, "a", 20)], pieces=2),
        {"pipe": 2, "data": 2, "tensor": 2},
        2,
        "1f1b",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_of_several_kinds_compute_the_same(name: str) -> None:
    build, mesh, microbatches, schedule = CASES[name]
    fn, args = build()
    sharded = autoshard(fn, mesh=mesh, microbatch=microbatches, schedule=schedule, time_limit_s=1)
    report = compare_steps(fn, sharded, args, steps=2)
    pipe = sharded.plan.pipeline
    assert pipe is not None
    assert (pipe.stages, pipe.schedule) == (mesh["pipe"], schedule)
    assert len(pipe.layers) == pipe.stages
    assert "kinds of layers" in "".join(sharded.plan.notes)
    check(report)


def test_layers_of_several_kinds_are_computed_again() -> None:
    fn, args = in_loops([(1, "a", 12), (3, "r", 20)], rate=0.25)()
    mesh = {"pipe": 2, "data": 2, "tensor": 2}
    sharded = autoshard(fn, mesh=mesh, microbatch=2, schedule="1f1b", remat="full", time_limit_s=1)
    check(compare_steps(fn, sharded, args, steps=2))
    assert sharded.plan.remat == "full"


def test_kinds_of_layers_go_round_once() -> None:
    fn, args = unrolled()()
    with pytest.raises(PipelineError, match="several kinds are not taken round several times"):
        plan(fn, *args, devices="cpu:8", pipeline=2, schedule="circular")


def test_the_boundaries_are_part_of_the_plan(tmp_path: Path) -> None:
    # The wide layers are the last two; the first four have as much work as one of them.
    fn, args = unrolled([("m", 4)] * 4 + [("m", 64)] * 2)()
    found = plan(fn, *args, devices="cpu:8", mesh={"pipe": 2, "data": 4}, time_limit_s=1)
    assert found.pipeline is not None
    assert found.pipeline.layers == (5, 1)
    assert "2 stages of 5, 1" in " ".join(str(found).split())
    found.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == found
    again = autoshard(fn, plan=tmp_path / "plan.json")
    check(compare_steps(fn, again, args, steps=1))
