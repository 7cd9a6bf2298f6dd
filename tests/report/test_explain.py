"""Explaining finds a tensor by path, as JAX prints it or with slashes, and a line of code."""

from dataclasses import replace

from autoshard.report.explain import render, renderable
from tests.plan.sample import make_plan


def test_a_leaf():
    text = render(make_plan(), "params/layers/mlp/up", 120)
    for part in (
        "state['params']['layers']['mlp']['up']",
        "parameter, f32[24,1024,4096]",
        "P(None, 'data', 'tensor')",
        "f32[24,256,2048], 48.0 MiB: 8 pieces, 1 of each",
        "chosen together with every other spec",
        "in use, tensors of the same shape: 2",
        "all-gather",
    ):
        assert part in text
    assert ".mu" not in text
    assert text == render(make_plan(), "['params']['layers']['mlp']['up']", 120)


def test_a_note_is_the_reason():
    text = render(make_plan(), "params/final_norm/scale", 120)
    assert "small: gathering it would cost more than the copy" in text
    assert "1 pieces, 8 of each" in text


def test_a_line_brings_its_collectives():
    text = render(make_plan(), "gpt.py:129", 120)
    assert "partial sum over tensor" in text
    assert "all-reduce" in text
    assert "reduce-scatter" not in text


def test_nothing_found():
    assert renderable(make_plan(), "zzz") is None
    assert "matches 'zzz'" in render(make_plan(), "zzz")


def test_a_given_plan_names_its_strategy():
    plan = make_plan()
    given = replace(plan, strategy="fsdp", certificate=replace(plan.certificate, status="given"))
    assert "strategy 'fsdp' sets it" in render(given, "params/embed", 120)
