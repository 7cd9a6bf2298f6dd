"""Published pipelines: how layers are cut, what a step waits for, and what is scored."""

import pytest

from benchmarks.published.fit import is_fitted_on
from benchmarks.published.main import evaluate
from benchmarks.published.predict import Efficiency, case_of, predict
from benchmarks.published.rows import read
from benchmarks.published.score import Scored
from benchmarks.published.stages import CUTS, Cut, stages_of
from tests.benchmarks.published_record import record

PIPED = {
    "model__layers": 4,
    "layout__pipe": 2,
    "layout__data": 4,
    "layout__microbatch": 1,
}


def of(cut="evenly", layers=8, weights=10, head=5, stages=4, microbatches=8, chunks=1):
    sizes = {"stages": stages, "microbatches": microbatches, "data": 1, "tensor": 1}
    return stages_of(cut, layers, weights, head, sizes, schedule="1f1b", chunks=chunks)


def predicted(**changes):
    row = read(record(**(PIPED | changes)))
    case = case_of(row)
    return Scored(row, predict(row, case, Efficiency()), is_fitted_on(row), case.stages)


@pytest.fixture(scope="module")
def piped():
    return predicted()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("layers", [8, 11, 28])
@pytest.mark.parametrize("head", [1, 22, 60])
def test_every_layer_lies_on_one_stage(cut, layers, head):
    for stages in (2, 4, 8):
        found = CUTS[cut](layers, stages, 10, head)
        assert len(found.layers) == stages
        assert sum(found.layers) == layers
        assert found.head_at < stages


def test_stages_by_weights_leave_room_for_the_head():
    # nanotron's Llama of 32 layers whose head weighs 2.2 of them, on two stages.
    assert CUTS["by weights"](32, 2, 10, 22) == Cut((18, 14), 1)
    # And its Llama of 16 layers, whose head weighs 4: the head is alone, the last stage empty.
    assert CUTS["by weights"](16, 8, 10, 40) == Cut((3, 3, 2, 3, 2, 3, 0, 0), 6)


def test_equal_stages_wait_as_often_as_a_pipeline_has_ticks():
    found = of()
    assert found.passes == found.pipeline.ticks == 11
    assert found.layers == 2
    assert found.waits_for_head


def test_unequal_stages_wait_for_the_fullest_and_pass_the_others_once():
    found = of("by weights", layers=32, head=22, stages=2)
    assert (found.layers, found.waits_for_head) == (18, False)
    assert found.passes * found.layers == pytest.approx(32 + 7 * 18)


def test_a_head_by_itself_may_be_what_all_layers_wait_for():
    found = of("by weights", layers=16, head=40, stages=8)
    assert found.waits_for_head
    assert found.passes * found.layers == 16


def test_interleaved_schedules_are_told_from_ours():
    assert of().takes_as_long
    assert not of(chunks=2).takes_as_long
    assert not of(chunks=2).keeps_as_much


def test_a_bubble_costs_time(piped):
    # As many sequences a microbatch, on as many devices.
    few = predicted(global_batch=8)
    assert piped.predicted.step_s < 4 * few.predicted.step_s


def test_the_last_stage_takes_its_head_alone():
    def head_s(**layout):
        changes = {f"layout__{name}": size for name, size in layout.items()}
        sizes = {"global_batch": 512, "layout__microbatch": 8, "model__seq": 1024}
        two = (predicted(model__vocab=v, **sizes, **changes) for v in (51200, 1024))
        more, less = (each.predicted.device_s for each in two)
        return more - less

    # Half as many replicas, so that twice as many sequences pass through one head.
    assert head_s(data=4, pipe=2) / head_s(data=8, pipe=1) == pytest.approx(2, rel=0.1)


def test_a_pipeline_launches_the_kernels_of_its_stage():
    slow = Efficiency(launch_s=1e-3)
    rows = [read(record(**PIPED)), read(record(**(PIPED | {"layout__pipe": 1, "layout__data": 8})))]
    staged, whole = (predict(row, case_of(row), slow) for row in rows)
    # 9 passes of 2 layers against 4 microbatches of 4.
    assert 0.9 < staged.launched_s / whole.launched_s < 1.5


def test_memory_of_another_schedule_is_not_compared(piped):
    assert piped.peak_bytes is None
    assert piped.memory_error is None


def test_interleaved_runs_are_scored_by_themselves():
    rows = [read(record(**PIPED)), read(record(id="woven", layout__interleave=2, **PIPED))]
    found = evaluate(rows, {})
    assert [g["rows"] for g in found["groups"]] == [1]
    assert [g["rows"] for g in found["interleaved"]] == [1]
    assert found["summary"]["with_pipelines"]["rows"] == 1
    assert found["summary"]["without_pipelines"]["rows"] == 0
