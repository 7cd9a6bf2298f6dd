"""Layers rematerialised by the compiler: the same numbers, less memory."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard import InfeasibleError, autoshard, plan
from autoshard.plan.model import Plan
from autoshard.verify.equality import compare_steps, pure_step
from tests.execute.models import check, step_of
from tests.laws.steps import BY_NAME, GPT, functional, gpt

SCANNED = ("gpt", "llama", "vit", "t5")
ONE = {"data": 1}


def least(fn: Any, args: Any, **options: Any) -> float:
    """The least memory that works, in bytes per device."""
    with pytest.raises(InfeasibleError) as error:
        plan(fn, *args, memory=1, time_limit_s=1, **options)
    return error.value.least_bytes


@pytest.mark.parametrize("name", SCANNED)
def test_one_device_computes_the_same(name: str) -> None:
    fn, args = step_of(name)
    sharded = autoshard(fn, remat=True, devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=2)
    assert sharded.plan.remat == "full"
    check(report)


@pytest.mark.parametrize("name", SCANNED)
def test_eight_devices_compute_the_same(name: str) -> None:
    fn, args = step_of(name)
    sharded = autoshard(
        fn, remat=True, mesh={"data": 4, "tensor": 2}, strategy="fsdp_tensor", time_limit_s=1
    )
    report = compare_steps(fn, sharded, args, steps=2)
    check(report)


def test_masks_of_dropout_are_made_again_as_they_were() -> None:
    fn, args = functional(gpt, replace(GPT, dropout=0.25))()
    sharded = autoshard(fn, remat=True, devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=2)
    assert sharded.plan.remat == "full"
    check(report)


def test_loops_inside_a_loop_are_rewritten() -> None:
    fn, args = BY_NAME["gpt accumulated"].build()
    sharded = autoshard(fn, remat=True, devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=2)
    assert "rematerialised" in " ".join(sharded.plan.notes)
    check(report)


def test_residuals_that_something_else_reads_are_kept() -> None:
    """A value that the loop returns to the user too is not computed again."""

    def fn(w: jax.Array, x: jax.Array) -> Any:
        def loss(w: jax.Array) -> Any:
            def layer(x: jax.Array, w: jax.Array) -> Any:
                hidden = jnp.sin(x @ w)
                return jnp.cos(hidden), hidden

            out, hidden = jax.lax.scan(layer, x, w)
            return out.sum(), hidden

        (_, hidden), grad = jax.value_and_grad(loss, has_aux=True)(w)
        return grad, hidden

    args = (jnp.linspace(0, 1, 48).reshape(3, 4, 4), jnp.ones((8, 4)))
    sharded = autoshard(fn, remat=True, devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=1)
    check(report)
    assert sharded.plan.outputs[1].shape == (3, 8, 4)


def test_the_plan_says_what_is_computed_again() -> None:
    fn, args = step_of("gpt")
    found = plan(fn, *args, on="cpu:8", remat=True)
    (note,) = (note for note in found.notes if note.startswith("rematerialised"))
    assert "the backward loop of the 2 layers at" in note
    assert "gpt.py:" in note
    assert "scanned layers rematerialised" in str(found)


def test_nothing_to_rematerialise_is_said() -> None:
    fn, args = step_of("mlp")
    found = plan(fn, *args, on="cpu:8", remat=True)
    assert any(note.startswith("nothing was rematerialised") for note in found.notes)


def test_what_a_model_rematerialises_itself_is_left_alone() -> None:
    fn, args = BY_NAME["gpt remat"].build()
    found = plan(fn, *args, on="cpu:8", remat=True)
    assert any(note.startswith("nothing was rematerialised") for note in found.notes)


def test_memory_below_the_least_of_the_step_as_written_is_met() -> None:
    fn, args = step_of("gpt")
    needed = least(fn, args, on="cpu:8")
    found = plan(fn, *args, on="cpu:8", memory=0.8 * needed, remat="auto", time_limit_s=4)
    assert found.remat in ("selective", "full")
    assert found.prediction.peak_bytes <= 0.8 * needed


def test_with_memory_to_spare_nothing_is_rematerialised() -> None:
    fn, args = step_of("gpt")
    found = plan(fn, *args, on="cpu:8", remat="auto")
    assert found.remat == "as written"


def test_a_saved_plan_rematerialises_again(tmp_path: Any) -> None:
    fn, args = step_of("gpt")
    file = tmp_path / "plan.json"
    mesh = {"data": 4, "tensor": 2}
    made = autoshard(fn, remat=True, mesh=mesh, time_limit_s=1).plan_for(*args)
    made.save(file)
    assert Plan.load(file) == made
    sharded = autoshard(fn, plan=file)
    report = compare_steps(fn, sharded, args, steps=1)
    assert sharded.plan.remat == "full"
    check(report)


def test_two_plans_differ_by_it() -> None:
    fn, args = step_of("gpt")
    as_written, again = (plan(fn, *args, on="cpu:8", remat=remat) for remat in (False, True))
    assert "remat: as written -> full" in str(as_written.diff(again))


@pytest.mark.parametrize("said", ["yes", 1, None])
def test_other_words_are_refused(said: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r'remat=.*: write True, False or one of "none", "selective", "full", "auto"',
    ):
        autoshard(lambda x: x, remat=said)


@pytest.mark.parametrize(
    ("name", "remat"),
    [("gpt remat", "none"), ("gpt nnx remat", "selective"), ("gpt accumulated", "selective")],
)
def test_less_is_computed_again_and_the_numbers_stay(name: str, remat: str) -> None:
    fn, args = BY_NAME[name].build()
    sharded = autoshard(fn, remat=remat, mesh={"data": 4, "tensor": 2}, time_limit_s=1)
    report = compare_steps(fn, sharded, args, steps=2)
    check(report)


def test_none_keeps_what_a_model_computes_again() -> None:
    fn, args = BY_NAME["gpt remat"].build()
    kept = plan(fn, *args, on="cpu:8", remat="none")
    (note,) = (note for note in kept.notes if note.startswith("kept"))
    assert "the backward loop of the 2 layers at" in note
    assert kept.remat == "none"
    as_written = plan(fn, *args, on="cpu:8", mesh=dict(kept.mesh.sizes))
    assert kept.prediction.flops < as_written.prediction.flops


def test_dropout_is_kept_as_it_was() -> None:
    fn, args = functional(gpt, replace(GPT, dropout=0.25, remat=True))()
    sharded = autoshard(fn, remat="none", devices=jax.devices()[:1])
    report = compare_steps(fn, sharded, args, steps=2)
    assert any(note.startswith("kept") for note in sharded.plan.notes)
    check(report)


def test_auto_stays_with_the_step_as_written_where_it_is_nearly_as_fast() -> None:
    fn, args = BY_NAME["gpt remat"].build()
    found = plan(fn, *args, on="cpu:8", remat="auto")
    assert found.remat == "as written"


# The emitters, where tests/conftest.py leaves them out: without them rounding depends on what is
# fused.
_EMITTERS = "xla_cpu_use_fusion_emitters"
AS_USERS = {_EMITTERS: True} if f"{_EMITTERS}=false" in os.environ["XLA_FLAGS"] else {}


@pytest.mark.parametrize(
    ("name", "remat"), [("gpt remat", "none"), ("gpt remat", "selective"), ("llama", "selective")]
)
def test_values_that_are_kept_are_the_same_to_the_last_digit(name: str, remat: str) -> None:
    from jax.extend.core import jaxpr_as_fun

    from autoshard.trace.variants import REMATS

    fn, args = BY_NAME[name].build() if name in BY_NAME else step_of(name)
    traced = pure_step(fn, args).trace("step")
    kept, _ = REMATS[remat](traced.closed)
    leaves = jax.tree_util.tree_leaves(args)
    before = jax.jit(jaxpr_as_fun(traced.closed), compiler_options=AS_USERS)(*leaves)
    after = jax.jit(jaxpr_as_fun(kept), compiler_options=AS_USERS)(*leaves)
    assert all(map(jnp.array_equal, before, after))


def test_gradients_are_the_same_to_the_last_digit() -> None:
    """The rewritten program itself, without a mesh: recomputing is no other arithmetic."""
    from jax.extend.core import jaxpr_as_fun

    from autoshard.trace.remat import rematerialised

    fn, args = step_of("gpt")
    traced = pure_step(fn, args).trace("step")
    again, done = rematerialised(traced.closed)
    assert len(done) == 1
    leaves = jax.tree_util.tree_leaves(args)
    before = jax.jit(jaxpr_as_fun(traced.closed), compiler_options=AS_USERS)(*leaves)
    after = jax.jit(jaxpr_as_fun(again), compiler_options=AS_USERS)(*leaves)
    assert all(map(jnp.array_equal, before, after))
