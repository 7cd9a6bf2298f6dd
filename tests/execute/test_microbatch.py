"""Steps taken in microbatches: the same numbers, less memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import pytest

from autoshard import InfeasibleError, autoshard, plan
from autoshard.errors import MicrobatchError
from autoshard.models import moe, wideresnet
from autoshard.plan.model import Plan
from autoshard.verify.equality import compare_steps
from tests.execute.models import check, step_of
from tests.laws.steps import BY_NAME, GPT, functional, gpt

MESH = {"data": 2, "tensor": 2}
NAMES = ("mlp", "gpt", "llama", "vit", "t5")
OTHERS = ("gpt remat", "gpt tied", "gpt unrolled, dropout", "gpt linen", "gpt nnx", "convnet")


@pytest.mark.parametrize("name", NAMES)
def test_one_device_computes_the_same(name: str) -> None:
    fn, args = step_of(name)
    sharded = autoshard(fn, microbatch=4, devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=2)
    assert sharded.plan.microbatches == 4
    check(report)


@pytest.mark.parametrize("name", NAMES)
def test_many_devices_compute_the_same(name: str) -> None:
    fn, args = step_of(name)
    sharded = autoshard(
        fn, microbatch=2, remat=True, mesh=MESH, devices=jax.devices()[:4], strategy="fsdp_tensor",
        time_limit_s=1,
    )  # fmt: skip
    check(compare_steps(fn, sharded, args, steps=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_compute_the_same(name: str) -> None:
    fn, args = step_of(name)
    sharded = autoshard(fn, microbatch=2, mesh={"data": 4, "tensor": 2}, time_limit_s=1)
    check(compare_steps(fn, sharded, args, steps=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_to_write_a_step(name: str) -> None:
    fn, args = BY_NAME[name].build()
    sharded = autoshard(fn, microbatch=2, mesh=MESH, devices=jax.devices()[:4], time_limit_s=1)
    check(compare_steps(fn, sharded, args, steps=2))


def test_batch_norm_is_refused() -> None:
    config = replace(wideresnet.CONFIGS["wrn-tiny"], compute_dtype="float32")
    step, args = wideresnet.make_train_step(config), wideresnet.abstract_inputs(config, 8)
    with pytest.raises(MicrobatchError, match=r"summed over the batch at .*wideresnet\.py:\d+ "):
        plan(step, *args, on="cpu:8", microbatch=2)


def test_balance_losses_of_experts_are_refused() -> None:
    config = moe.CONFIGS["moe-tiny"]
    step, args = moe.make_train_step(config), moe.abstract_inputs(config, 8)
    with pytest.raises(MicrobatchError, match=r"summed over the batch at .*moe\.py:\d+ goes"):
        plan(step, *args, on="cpu:8", microbatch=2)


def test_masks_of_dropout_in_loops_are_refused() -> None:
    fn, args = functional(gpt, replace(GPT, dropout=0.25))()
    with pytest.raises(MicrobatchError, match=r"random numbers .* inside a loop .*gpt\.py:\d+"):
        plan(fn, *args, on="cpu:8", microbatch=2)


def test_what_cannot_be_taken_in_microbatches_is_planned_without_and_says_why() -> None:
    config = moe.CONFIGS["moe-tiny"]
    step, args = moe.make_train_step(config), moe.abstract_inputs(config, 8)
    free = plan(step, *args, on="cpu:2", time_limit_s=2)
    tight = 0.95 * free.prediction.peak_bytes
    # Long enough that the time is not over before a second form is looked at.
    found = plan(step, *args, on="cpu:2", memory=tight, microbatch="auto", time_limit_s=60)
    assert found.microbatches == 1
    assert any("not taken in microbatches: the step" in note for note in found.notes)


def test_memory_below_the_least_of_the_step_as_written_is_met() -> None:
    fn, args = step_of("gpt")
    with pytest.raises(InfeasibleError) as error:
        plan(fn, *args, on="cpu:2", memory=1, time_limit_s=1)
    limit = 0.85 * error.value.least_bytes
    found = plan(fn, *args, on="cpu:2", memory=limit, microbatch="auto", time_limit_s=4)
    assert found.microbatches > 1
    assert found.prediction.peak_bytes <= limit
    assert any(rival.name == "step as written" for rival in found.certificate.rivals)


def test_with_memory_to_spare_the_step_stays_whole() -> None:
    fn, args = step_of("gpt")
    found = plan(fn, *args, on="cpu:8", remat="auto", microbatch="auto")
    assert (found.remat, found.microbatches) == ("as written", 1)
    assert any("no form that saves memory was looked at" in note for note in found.notes)


def test_when_no_form_fits_the_one_that_needs_least_is_named() -> None:
    fn, args = step_of("mlp")
    with pytest.raises(InfeasibleError, match=r"This is the step .*, of those that were tried"):
        plan(fn, *args, on="cpu:2", memory=100, microbatch="auto", time_limit_s=1)


def test_a_saved_plan_takes_microbatches_again(tmp_path: Any) -> None:
    fn, args = step_of("mlp")
    file = tmp_path / "plan.json"
    made = autoshard(fn, microbatch=2).plan_for(*args)
    made.save(file)
    assert Plan.load(file) == made
    sharded = autoshard(fn, plan=file)
    report = compare_steps(fn, sharded, args, steps=1)
    assert sharded.plan.microbatches == 2
    check(report)


def test_a_kept_plan_is_found_by_the_same_request_alone(tmp_path: Any) -> None:
    fn, args = step_of("mlp")
    for count in (1, 2, 2):
        autoshard(fn, microbatch=count, cache=tmp_path).plan_for(*args)
    assert len(list(tmp_path.iterdir())) == 2


def test_reports_say_so() -> None:
    fn, args = step_of("mlp")
    as_written, split = (plan(fn, *args, on="cpu:8", microbatch=count) for count in (1, 4))
    assert "4 microbatches, gradients accumulated" in str(split)
    assert "rewritten" not in str(as_written)
    assert "microbatches: 1 -> 4" in str(as_written.diff(split))
    (note,) = (note for note in split.notes if note.startswith("4 microbatches of 2 examples"))
    assert "accumulated" in note


@pytest.mark.parametrize("said", [0, -1, True, 1.5, "many"])
def test_other_words_are_refused(said: Any) -> None:
    with pytest.raises(ValueError, match=r"microbatch=.*: write how many"):
        autoshard(lambda x: x, microbatch=said)
