"""Predictions for published runs move the way the runs do, and are scored as announced."""

import json

import pytest

from benchmarks.published import predict as predicting
from benchmarks.published.fit import is_fitted_on
from benchmarks.published.main import main
from benchmarks.published.predict import Efficiency, Predicted, Unsupported, case_of, predict
from benchmarks.published.rows import read
from benchmarks.published.score import Scored, groups
from tests.benchmarks.published_record import record

CATALOGUE = Efficiency()


def predicted(efficiency=CATALOGUE, **changes):
    row = read(record(**changes))
    return predict(row, case_of(row), efficiency)


@pytest.fixture(scope="module")
def plain():
    return predicted()


def test_recomputing_layers_costs_time_and_saves_memory(plain):
    kept = predicted(layout__remat="none")
    assert kept.device_s < plain.device_s
    assert kept.peak_bytes > plain.peak_bytes


def test_sharded_optimizer_state_saves_most_of_it(plain):
    cut = predicted(layout__zero=1)
    assert cut.peak_bytes < plain.peak_bytes


def test_a_python_process_can_be_too_slow_for_its_devices(plain):
    slow = predicted(Efficiency(launch_s=1e-3))
    assert plain.launched_s == 0
    assert slow.launched_s > slow.device_s == plain.device_s
    assert slow.step_s == pytest.approx(slow.launched_s, rel=0.01)


def test_compiled_programs_are_not_launched_op_by_op():
    found = predicted(Efficiency(launch_s=1e-3), framework="MaxText (JAX/XLA GSPMD)")
    assert found.launched_s == 0


def test_scores_through_memory_take_longer_than_one_kernel():
    through = predicted(model__seq=512)
    kernel = predicted(model__seq=512, framework="nanotron", precision="fp16")
    assert kernel.peak_bytes < through.peak_bytes


def test_the_number_of_microbatches_says_how_large_they_are():
    said = {"layout__microbatch": None, "layout__num_microbatches": 4}
    assert case_of(read(record(**said))).recipe.microbatches == 4


def test_numbers_of_microbatches_share_a_trace_and_not_how_often_it_runs():
    case = case_of(read(record(layout__microbatch=1)))
    shared = predicting._analysis(case.config, case.recipe).program
    alone = predicting._traced(case.config, case.recipe)
    assert case.recipe.microbatches == 4
    assert [shared.times(r.id) for r in shared.regions] == [
        alone.times(r.id) for r in alone.regions
    ]


def test_gradients_of_one_microbatch_travel_in_the_dtype_they_are_added_up_in():
    case = case_of(read(record(layout__microbatch=4)))
    assert (case.recipe.microbatches, case.recipe.grad_dtype) == (1, "float32")
    program = predicting._traced(case.config, case.recipe)
    summed = [op for op in program.ops if op.kind == "dot_general" and op.region == 0]
    wide = {program.tensors[op.outputs[0]].dtype for op in summed if len(op.inputs) == 2}
    assert "float32" in wide


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layout__pipe": 2, "layout__data": 4, "layout__zero": 2}, "between pipeline stages"),
        ({"layout__pipe": 4, "layout__data": 2}, "2 layers are fewer than 4 stages"),
        ({"model__kind": "moe"}, "model kind moe"),
        ({"model__layers": None}, "does not say layers"),
        ({"model__kind": None, "model__layers": None}, "does not say kind, layers"),
        ({"framework": "Abacus"}, "nothing is known of how Abacus trains"),
        ({"layout__remat": "by moonlight"}, "'by moonlight' is not modelled"),
        ({"layout__context": 2, "layout__data": 4}, "context dimension"),
        ({"layout__data": 4}, "make 8 devices of 16"),
    ],
)
def test_what_cannot_be_expressed_says_why(changes, why):
    with pytest.raises(Unsupported, match=why):
        case_of(read(record(**changes)))


def scored(measured, guessed, **changes):
    return [
        Scored(read(record(id=str(n), measured={"step_s": m}, **changes)), Predicted(g, 0.0, 1.0))
        for n, (m, g) in enumerate(zip(measured, guessed, strict=True))
    ]


def test_regret_is_the_time_of_the_layout_we_would_pick():
    (group,) = groups(scored([1.0, 1.5, 2.0], [5.0, 4.0, 6.0]))
    assert group["regret"] == 1.5
    assert group["spearman"] == pytest.approx(0.5)


def test_only_equal_batches_are_ranked_against_each_other():
    small = scored([1.0, 2.0], [2.0, 1.0])
    large = scored([3.0, 4.0], [3.0, 4.0], global_batch=64)
    (group,) = groups([*small, *large])
    assert group["regret"] == 2.0
    assert group["spearman"] is None  # two layouts are no ranking


def test_a_group_is_fitted_on_as_a_whole():
    rows = [read(record(id=str(n))) for n in range(20)]
    assert len({is_fitted_on(row) for row in rows}) == 1


def test_the_command_counts_and_names_what_it_leaves_out(tmp_path, capsys):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([record(), record(id="odd", layout__context=2)]))
    assert main([str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [g["rows"] for g in found["groups"]] == [1]
    assert found["groups"][0]["median_error_step"] > 0
    (left,) = found["unsupported"]
    assert left["id"] == "odd"
    assert "32 devices of 16" in left["reason"]


def test_the_table_reads_without_json(tmp_path, capsys):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([record(id="odd", layout__context=2)]))
    assert main([str(file)]) == 0
    assert "unsupported:    1  the stated sizes make 32 devices of 16" in capsys.readouterr().out
