"""What is sent over the axis of stages is counted by what it is for."""

from __future__ import annotations

from dataclasses import replace

from autoshard.plan.model import Collective, MeshPlan
from autoshard.verify.collectives import Seen
from autoshard.verify.compare import compare
from autoshard.verify.witness import Witness
from benchmarks.compiled.stages import over_pipe
from tests.plan.sample import make_plan


def planned(kind: str, axes: str, count: int, size: int, reason: str) -> Collective:
    return Collective(kind, tuple(axes.split()), count, size, 1e-3, 1e-3, reason=reason)


def seen(kind: str, axes: str, count: int, size: int) -> Seen:
    return Seen(kind, tuple(axes.split()), whole=True, count=count, bytes=size, tensor="")


def test_every_purpose_is_counted_once() -> None:
    plan = replace(
        make_plan(),
        mesh=MeshPlan(("pipe", "data", "tensor"), (2, 2, 2), tuple(range(8))),
        collectives=(
            planned("permute", "pipe", 6, 10, "as the program says"),
            planned("reduce-scatter", "pipe", 2, 300, "as the program says"),
            planned("all-reduce", "pipe", 1, 7000, "gradient summed"),
            planned("all-gather", "pipe data", 3, 50000, "parameter gathered for use"),
            planned("all-gather", "pipe", 1, 1e6, "activation laid out for use"),
            planned("all-reduce", "tensor", 9, 1e7, "matmul result summed"),
        ),
    )
    compiled = (
        seen("permute", "pipe", 6, 10),
        seen("reduce-scatter", "pipe", 2, 300),
        seen("all-reduce", "pipe", 1, 7000),
        seen("all-gather", "pipe data", 3, 50000),
        seen("all-to-all", "pipe", 1, 4),
        seen("permute", "tensor", 2, 5),
        seen("all-reduce", "tensor", 9, 1e7),
    )
    found = over_pipe(compare(plan, Witness("gpu", 1, 1, 1, 1, compiled, 1.0)))
    assert found["planned"] == {
        "handed on": {"count": 6, "bytes": 60.0},
        "dealt out": {"count": 2, "bytes": 600.0},
        "gradients": {"count": 1, "bytes": 7000.0},
        "parameters": {"count": 3, "bytes": 150000.0},
        "outside": {"count": 1, "bytes": 1e6},
    }
    assert found["missing"] == {"count": 1, "bytes": 1e6}
    assert found["unplanned"] == {"count": 1, "bytes": 4.0}
    assert found["unplanned_elsewhere"] == {"count": 2, "bytes": 10.0}
