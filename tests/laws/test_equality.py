"""The law: a sharded step computes what the plain step computes.

Tiny models are cheapest whole on every device, so the automatic plan alone would test little:
layouts are also forced, by expert strategies, by memory that leaves no choice but to split the
state, and, the strongest, by drawing every decision at random.
"""

from __future__ import annotations

from typing import Any

import pytest

from autoshard import InfeasibleError, autoshard, plan
from autoshard.plan.model import Plan
from autoshard.verify.equality import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    EqualityReport,
    compare_steps,
)
from tests.laws.layouts import random_plan
from tests.laws.steps import BY_NAME, MODELS, VARIANTS, Case

MESH = {"data": 4, "tensor": 2}
MESHES: tuple[Any, ...] = (
    {"data": 8, "tensor": 1},
    MESH,
    {"data": 2, "tensor": 4},
    {"data": 1, "tensor": 8},
    "auto",
)


def name_of(value: Any) -> str:
    return "x".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def holds(case: Case, *, steps: int = 5, **options: Any) -> Plan:
    """Asserts the law for a case under some options; returns the plan it ran with."""
    fn, args = case.build()
    sharded = autoshard(fn, **options)
    check(case, compare_steps(fn, sharded, args, steps=steps))
    return sharded.plan


def check(case: Case, report: EqualityReport) -> None:
    tolerance = BFLOAT16_TOLERANCE if case.bfloat16 else FLOAT32_TOLERANCE
    assert report.agrees(tolerance), str(report)


def split_state(found: Plan) -> list[str]:
    roles = ("parameter", "optimizer")
    return [leaf.path for leaf in found.leaves(*roles) if not leaf.spec.is_replicated]


def at_random(case: Case, seed: int, mesh: dict[str, int] = MESH) -> None:
    fn, args = case.build()
    drawn = random_plan(fn, args, mesh, seed)
    assert split_state(drawn)
    check(case, compare_steps(fn, autoshard(fn, plan=drawn), args, steps=2))


@pytest.mark.parametrize("name", ["mlp", "gpt", "gpt nnx unrolled", "convnet"])
def test_state_and_weights_split_over_both_axes(name: str) -> None:
    found = holds(BY_NAME[name], mesh=MESH, strategy="fsdp_tensor")
    assert len(split_state(found)) > 3


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("mlp", "zero1+megatron"),
        ("gpt", "sequence_parallel"),
        ("gpt", "context_parallel"),
        ("moe", "expert_parallel+megatron"),
    ],
)
def test_experts_of_two_axes(name: str, strategy: str) -> None:
    holds(BY_NAME[name], mesh=MESH, strategy=strategy, steps=3)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_every_decision_at_random(name: str) -> None:
    at_random(BY_NAME[name], seed=0)


def test_too_little_memory_to_keep_the_state_whole() -> None:
    tight(BY_NAME["mlp"], "auto")


def tight(case: Case, mesh: Any) -> None:
    """The law with barely more memory than the least that works."""
    fn, args = case.build()
    with pytest.raises(InfeasibleError) as error:
        plan(fn, *args, mesh=mesh, memory=1)
    least = error.value.least_bytes
    assert least is not None
    found = holds(case, mesh=mesh, memory=1.15 * least)
    assert split_state(found)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
@pytest.mark.parametrize("case", MODELS, ids=str)
def test_automatic_plans(case: Case, mesh: Any) -> None:
    holds(case, mesh=mesh)


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_optimizers_and_ways_to_train(case: Case) -> None:
    assert split_state(holds(case, mesh=MESH, strategy="fsdp_tensor"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["data_parallel", "zero1", "zero3", "megatron", "fsdp_tensor"])
@pytest.mark.parametrize("name", ["mlp", "gpt", "gpt linen", "convnet", "llama"])
def test_expert_layouts(name: str, strategy: str) -> None:
    holds(BY_NAME[name], strategy=strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sequence_parallel", "context_parallel"])
@pytest.mark.parametrize("name", ["gpt linen", "gpt unrolled", "gpt remat", "llama", "moe"])
def test_expert_layouts_along_the_sequence(name: str, strategy: str) -> None:
    holds(BY_NAME[name], mesh=MESH, strategy=f"zero3+{strategy}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [MESH, {"data": 8, "tensor": 1}, {"data": 1, "tensor": 8}], ids=name_of
)
@pytest.mark.parametrize("name", ["gpt", "gpt nnx", "convnet"])
def test_tight_memory(name: str, mesh: Any) -> None:
    tight(BY_NAME[name], mesh)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["mlp", "gpt", "gpt unrolled", "convnet"])
def test_more_plans_at_random(name: str, seed: int) -> None:
    at_random(BY_NAME[name], seed + 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*MODELS[4:], *VARIANTS], ids=str)
def test_random_plans_of_every_variant(case: Case) -> None:
    at_random(case, seed=len(case.name))
