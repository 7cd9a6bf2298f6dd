"""A plan in a terminal says what was chosen, fits the width, and carries no control sequences."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from autoshard.plan.model import LeafPlan, Rival
from autoshard.program.spec import Spec
from autoshard.report import paths
from autoshard.report.text import render
from tests.plan.sample import GIB, make_plan


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_fits_the_width(width):
    text = render(make_plan(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_one_to_two_screens():
    assert len(render(make_plan(), 120).splitlines()) < 75
    assert len(render(make_plan(), 80).splitlines()) < 110


def test_says_what_matters():
    text = render(make_plan(), 120)
    for part in (
        "train_step on v5e:2x4",
        "data 4 on ICI y (line of 4) x tensor 2 on ICI x (line of 2)",
        "step 166 ms (compute 148 ms + communication 17.3 ms, 3.90 ms more hidden)",
        "peak 5.10 GiB of 14.4 GiB per device, state 583 MiB",
        "feasible: no plan is predicted below 162 ms, this one is at most 1.8 % from it",
        "searched 4.20 s",
        "layers/attention/{query,key,value} x3",
        "opt_state/0/... x30",
        "as its parameter",
        "gpt.py:129, 135",
        "everything else",
        "primitive `my_kernel` has no sharding rule",
    ):
        assert part in text


def test_every_number_of_time_stands_under_predicted():
    titles = [line for line in render(make_plan(), 120).splitlines() if "predicted" in line]
    assert any(t.startswith("predicted ") and "step 166 ms" in t for t in titles)
    assert any("predicted against rivals" in t for t in titles)
    assert any("predicted communication" in t for t in titles)
    assert any("predicted peak" in t for t in titles)


def test_str_is_plain_and_rich_has_style_where_wanted(monkeypatch):
    plan = make_plan()
    assert "\x1b" not in str(plan)

    def printed() -> str:
        out = io.StringIO()
        Console(file=out, force_terminal=True, width=100, color_system="truecolor").print(plan)
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    fine = replace(plan, certificate=replace(plan.certificate, status="optimal"))
    plan = fine
    assert "\x1b[32m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed()


def test_brackets_are_not_markup():
    plan = make_plan()
    leaf = LeafPlan("x['[bold]']", (2,), "float32", "data", Spec.of(None), 8.0)
    text = render(replace(plan, inputs=(*plan.inputs, leaf), notes=("[red]x[/red]",)), 120)
    assert "[bold]" in text
    assert "[red]x[/red]" in text


def test_all_shows_every_leaf_and_constraint():
    plan = make_plan()
    text = render(plan, 200, everything=True)
    for leaf in plan.inputs:
        assert paths.steps(leaf.path)[-1] in text
    assert text.count("f32[24,1024,4096]") == 3
    assert text.count("dot_general") == 10


def test_long_tables_are_cut_with_a_word():
    plan = make_plan()
    rivals = tuple(Rival(f"r{i}", "data 8", 0.2 + i, GIB) for i in range(30))
    many = replace(plan, certificate=replace(plan.certificate, rivals=rivals))
    assert "and 21 more rivals; --all shows them" in render(many, 120)
    assert "r29" in render(many, 120, everything=True)


def test_replicated_giants_are_noted():
    plan = make_plan()
    leaf = LeafPlan(
        "cache", (2**28,), "float32", "parameter", Spec.of(None), float(GIB), "size 3 is prime"
    )
    text = render(replace(plan, inputs=(*plan.inputs, leaf)), 120)
    assert "cache is replicated: 1.00 GiB on every device (size 3 is prime)" in text


def test_optimizer_that_lies_elsewhere_than_its_parameter_is_shown():
    plan = make_plan()
    at = next(i for i, x in enumerate(plan.inputs) if x.path.endswith(".mu['layers']['mlp']['up']"))
    leaf = replace(plan.inputs[at], spec=Spec.of("data", None, None))
    text = render(replace(plan, inputs=(*plan.inputs[:at], leaf, *plan.inputs[at + 1 :])), 120)
    assert "opt_state/0/... x29" in text
    assert "opt_state/0/mu/layers/mlp/up" in text


@pytest.mark.parametrize(
    ("status", "bound", "words"),
    [
        ("optimal", 0.16, "optimal: no plan is predicted below 160 ms, gap 0.0 %"),
        ("given", 0.0, "given by strategy 'fsdp', not searched"),
        ("given", 0.16, "given by strategy 'fsdp'; no plan is predicted below 160 ms"),
    ],
)
def test_certificates(status, bound, words):
    plan = replace(make_plan(), strategy="fsdp")
    certificate = replace(plan.certificate, status=status, lower_bound_s=bound, gap=0.0)
    assert words in render(replace(plan, certificate=certificate), 120)


def test_constraints_that_split_come_before_those_that_do_not():
    plan = make_plan()
    whole = replace(plan.constraints[0], specs=(Spec.of(None, None, None),), reason="defined")
    many = tuple(replace(whole, at=f"7/{i}", source=f"gpt.py:{i}") for i in range(40))
    lines = render(replace(plan, constraints=(*many, *plan.constraints)), 120).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("activations with"))
    assert "vocabulary split" in lines[start + 3]
    assert "... 35 more" in "".join(lines[start:])


def test_tensors_alive_that_are_alike_share_a_row():
    plan = make_plan()
    carry = plan.prediction.alive_at_peak[1]
    alive = (carry, replace(carry, what="other", bytes_per_device=1.0), carry)
    text = render(replace(plan, prediction=replace(plan.prediction, alive_at_peak=alive)), 120)
    assert "carry of 24 layers bf16[24,64,1024,1024] x2    1.50 GiB" in text


def test_too_much_memory_is_said():
    plan = make_plan()
    big = replace(plan, prediction=replace(plan.prediction, peak_bytes=20.0 * GIB))
    assert "peak 20.0 GiB of 14.4 GiB per device, too much" in render(big, 120)


def test_the_least_plan_renders():
    plan = make_plan()
    bare = replace(
        plan, inputs=(), outputs=(), constraints=(), collectives=(), notes=(),
        prediction=replace(plan.prediction, alive_at_peak=()),
        certificate=replace(plan.certificate, rivals=()),
    )  # fmt: skip
    assert len(render(bare, 120).splitlines()) == 6
    assert "plan" in plan.explain("nowhere")
    assert "no inputs" in bare.explain("x")
