"""Planned beside compiled: what matches, what nobody planned, and which ways are taken as equal."""

from dataclasses import replace

import pytest

from autoshard.plan.model import Collective, MeshPlan
from autoshard.report import comparison
from autoshard.report.text import plain
from autoshard.verify.collectives import Seen
from autoshard.verify.compare import compare, summing_to
from autoshard.verify.witness import Witness
from tests.plan.sample import make_plan

MIB = 1 << 20


def planned(kind, axes, count, size, **more):
    words = {"tensor": f"bfloat16[{size}]", "source": "m.py:1", "reason": "summed", **more}
    return Collective(kind, tuple(axes.split()), count, float(size), 1e-3, 1e-3, **words)


def seen(kind, axes, count, size, **more):
    words = {"tensor": f"bf16[{size}]", "source": "m.py:1", **more}
    return Seen(kind, tuple(axes.split()), whole=True, count=count, bytes=float(size), **words)


def compared(collectives, compiled, platform="gpu", peak=1000.0, compiled_peak=1000, **more):
    plan = make_plan()
    plan = replace(
        plan,
        mesh=MeshPlan(("data", "tensor", "pipe"), (2, 4, 1), tuple(range(8))),
        collectives=tuple(collectives),
        prediction=replace(plan.prediction, peak_bytes=peak),
    )
    memory = {"argument_bytes": 600, "output_bytes": 300, "alias_bytes": 200}
    left = compiled_peak - 700
    witness = Witness(platform, **memory, temporary_bytes=left, collectives=tuple(compiled),
                      compile_s=1.0)  # fmt: skip
    return compare(plan, witness, **more)


def kinds(items):
    return [(x.kind, x.axes, x.count) for x in items]


def test_as_planned():
    found = compared(
        [planned("all-gather", "data", 12, MIB), planned("all-reduce", "tensor", 24, 2 * MIB)],
        [seen("all-reduce", "tensor", 24, 2 * MIB), seen("all-gather", "data", 12, MIB)],
    )
    assert found.agrees
    assert (found.unplanned, found.missing, found.remarks) == ((), (), ())
    assert [(r.kind, r.planned_count, r.count) for r in found.rows] == [
        ("all-reduce", 24, 24),
        ("all-gather", 12, 12),
    ]
    assert found.rows[0].predicted_bytes == found.rows[0].compiled_bytes == 48 * MIB


def test_what_nobody_planned():
    found = compared(
        [planned("all-gather", "data", 1, MIB)],
        [
            seen("all-gather", "data", 1, MIB),
            seen(
                "all-to-all", "tensor", 3, MIB, source="m.py:9", op_name="jit(f)/jvp()/dot_general"
            ),
        ],
    )
    assert not found.agrees
    (extra,) = found.unplanned
    assert (extra.seen.kind, extra.seen.count, extra.seen.source) == ("all-to-all", 3, "m.py:9")
    assert extra.instead == ""
    assert extra.why == "XLA splits this product otherwise than planned"
    assert found.communication_error == 0.75


def test_more_often_than_planned():
    """A gather inside a loop that was planned once, outside: the rest is unplanned."""
    found = compared([planned("all-gather", "data", 1, MIB)], [seen("all-gather", "data", 12, MIB)])
    assert kinds(u.seen for u in found.unplanned) == [("all-gather", ("data",), 11)]


def test_planned_and_not_compiled():
    found = compared([planned("all-gather", "data", 4, MIB)], [])
    assert kinds(found.missing) == [("all-gather", ("data",), 4)]
    assert found.communication_error == 1.0


def test_the_missing_one_is_named_beside_the_unplanned():
    found = compared(
        [planned("reduce-scatter", "data", 2, MIB, reason="gradient summed")],
        [seen("all-reduce", "data", 2, MIB)],
    )
    assert not found.agrees
    assert found.unplanned[0].instead == (
        f"reduce-scatter over data of bfloat16[{MIB}] x2 at m.py:1 (gradient summed)"
    )


def test_several_sent_as_one_though_not_equally_often():
    """A loop's sums and one of the last round, laid end to end in every round."""
    plan = [planned("all-reduce", "data", times, MIB) for times in (24, 1, 1)]
    found = compared(plan, [seen("all-reduce", "data", 25, 3 * MIB)])
    assert found.unplanned[0].why == "for 3 planned ones of m.py:1, sent as one"


def test_an_all_reduce_is_a_reduce_scatter_on_cpu_only():
    plan, xla = [planned("reduce-scatter", "data", 2, MIB)], [seen("all-reduce", "data", 2, MIB)]
    found = compared(plan, xla, platform="cpu")
    assert found.agrees
    assert not found.checks_bytes
    assert [r.kind for r in found.rows] == ["reduce-scatter"]
    assert found.remarks == (("all-reduce and slice for a reduce-scatter", 2),)
    for platform in ("gpu", "tpu"):
        assert not compared(plan, xla, platform=platform).agrees
        assert compared(plan, xla, platform=platform).checks_bytes


def test_wide_numbers_are_equal_on_cpu_only():
    plan, xla = [planned("all-gather", "data", 1, MIB)], [seen("all-gather", "data", 1, 2 * MIB)]
    assert compared(plan, xla, platform="cpu").agrees
    assert not compared(plan, xla, platform="gpu").agrees


def test_narrower_than_planned_is_equal_everywhere():
    plan, xla = [planned("all-gather", "data", 1, 2 * MIB)], [seen("all-gather", "data", 1, MIB)]
    for platform in ("cpu", "gpu", "tpu"):
        assert compared(plan, xla, platform=platform).unplanned == ()


def test_padding_is_forgiven_and_other_sizes_are_not():
    plan = [planned("all-gather", "data", 1, 1000)]
    assert compared(plan, [seen("all-gather", "data", 1, 1040)]).agrees
    assert not compared(plan, [seen("all-gather", "data", 1, 1200)]).agrees


def test_two_steps_compiled_as_one():
    found = compared(
        [planned("all-reduce", "data", 3, MIB), planned("all-reduce", "tensor", 3, MIB)],
        [seen("all-reduce", "data tensor", 3, MIB)],
    )
    assert found.agrees
    assert [(r.axes, r.predicted_bytes) for r in found.rows] == [(("data", "tensor"), 3 * MIB)]


def test_steps_of_different_tensors_are_not_joined():
    found = compared(
        [
            planned("all-reduce", "data", 1, MIB, source="m.py:1"),
            planned("all-reduce", "tensor", 1, MIB, source="m.py:2"),
        ],
        [seen("all-reduce", "data tensor", 1, MIB)],
    )
    assert len(found.unplanned) == 1
    assert len(found.missing) == 2


def test_tensors_laid_end_to_end():
    sizes = (2 * MIB, MIB, 100, 28)
    found = compared(
        [planned("all-reduce", "data", 4, s) for s in sizes],
        [seen("all-reduce", "data", 4, 3 * MIB + 100), seen("all-reduce", "data", 4, 28)],
    )
    assert found.agrees
    assert [r.count for r in found.rows] == [16]
    assert found.remarks == (("tensors laid end to end and sent as one", 4),)


def test_parts_that_sum():
    assert sorted(summing_to(10, [7, 5, 3, 6])) == [0, 2]
    assert summing_to(10, [7, 5, 4, 8]) == []
    assert summing_to(10, []) == []


def test_half_an_axis_is_not_what_was_planned():
    half = replace(seen("all-gather", "tensor", 1, MIB), whole=False)
    found = compared([planned("all-gather", "tensor", 1, MIB)], [half])
    assert len(found.unplanned) == len(found.missing) == 1


@pytest.mark.parametrize(
    ("peak", "tolerance", "agrees"),
    [(1050, 0.1, True), (950, 0.1, True), (1200, 0.1, False), (800, 0.1, False), (800, 0.3, True)],
)
def test_memory(peak, tolerance, agrees):
    found = compared([], [], peak=peak, compiled_peak=1000, tolerance=tolerance)
    assert found.witness.peak_bytes == 1000
    assert found.peak_error == pytest.approx(peak / 1000 - 1)
    assert found.agrees is agrees


def test_the_report_says_it_all():
    found = compared(
        [planned("reduce-scatter", "data", 2, MIB), planned("all-gather", "data", 12, 4 * MIB)],
        [
            seen("all-gather", "data", 12, 4 * MIB),
            seen("all-reduce", "data", 2, MIB, source="/home/me/m.py:7", op_name="jit(f)/dot"),
            seen("permute", "tensor", 1, 8),
        ],
        peak=900.0,
        tolerance=0.01,
    )
    text = plain(comparison.renderable(found), 140)
    assert "differ by more than 1.0 %" in text
    assert "-10.0 %" in text
    assert "m.py:7 dot" in text
    assert "/home/me" not in text
    assert "1 of less than a thousandth of the bytes" in text
    told = comparison.as_json(found)
    assert told["agrees"] is False
    assert (told["predicted_peak_bytes"], told["compiled_peak_bytes"]) == (900.0, 1000)
    assert told["collectives"][0] == {
        "kind": "all-gather",
        "axes": ["data"],
        "count": 12,
        "planned_count": 12,
        "predicted_bytes": 48.0 * MIB,
        "compiled_bytes": 48.0 * MIB,
    }
    assert [u["kind"] for u in told["unplanned"]] == ["all-reduce", "permute"]


def test_a_ring_of_permutes_is_the_scatter_it_does():
    """Four devices pass a piece each three times; two more close the ring."""
    found = compared(
        [planned("reduce-scatter", "tensor", 1, 4 * MIB)],
        [seen("permute", "tensor", 4, MIB), seen("permute", "tensor", 1, MIB)],
        platform="tpu",
    )
    assert found.agrees
    assert (found.unplanned, found.missing) == ((), ())
    assert [(r.kind, r.count, r.compiled_bytes) for r in found.rows] == [
        ("reduce-scatter", 1, 4 * MIB)
    ]


def test_permutes_that_are_too_few_for_a_ring_stay_unplanned():
    found = compared(
        [planned("reduce-scatter", "tensor", 1, 4 * MIB)], [seen("permute", "tensor", 2, MIB)]
    )
    assert kinds(u.seen for u in found.unplanned) == [("permute", ("tensor",), 2)]
    assert kinds(found.missing) == [("reduce-scatter", ("tensor",), 1)]


def test_a_sum_read_in_pieces_may_be_scattered():
    found = compared(
        [planned("all-reduce", "data", 2, MIB)], [seen("reduce-scatter", "data", 2, MIB)]
    )
    assert found.agrees
    assert found.unplanned == ()
