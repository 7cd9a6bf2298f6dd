"""A strategy that means nothing for a program or a mesh says so, and never becomes another."""

from typing import Any

import pytest

from autoshard import plan
from autoshard.errors import StrategyError
from autoshard.models.zoo import zoo
from autoshard.strategies import STRATEGIES, strategy_of


def refused(model: str, *words: str, **options: Any) -> None:
    step, args = zoo(model, batch_size=8)
    with pytest.raises(StrategyError) as error:
        plan(step, *args, on="8xh100", **options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("strategy", ["sequence_parallel", "context_parallel"])
def test_no_sequence(strategy: str) -> None:
    refused("mlp-tiny", strategy, "no sequence", strategy=strategy)


def test_no_experts() -> None:
    refused("gpt-tiny", "expert_parallel", "no experts", strategy="expert_parallel")


def test_experts_of_ragged_groups_stay_whole() -> None:
    refused("moe-tiny-ragged", "ragged rows", strategy="expert_parallel")


def test_no_optimizer_state() -> None:
    refused("gpt-decode-tiny", "no optimizer state", strategy="zero1")


def test_a_sequence_that_does_not_divide() -> None:
    refused("vit-tiny", "sequence of 17", "tensor 2", "tensor 4", strategy="sequence_parallel")


def test_experts_that_do_not_divide() -> None:
    mesh = {"data": 8}
    refused("moe-tiny", "experts of 4", "data 8", strategy="expert_parallel", mesh=mesh)


def test_two_of_one_axis() -> None:
    refused("mlp-tiny", "'zero1'", "'zero3'", "axis 'data'", strategy="zero1+zero3")


def test_unknown_part_of_a_combination() -> None:
    refused("mlp-tiny", "'zero9'", "zero1", "'zero9+megatron'", strategy="zero9+megatron")


def test_rivals_say_why_they_are_none() -> None:
    step, args = zoo("mlp-tiny", batch_size=8)
    p = plan(step, *args, on="8xh100", donate_argnums=0)
    remarks = {r.name: r.remark for r in p.certificate.rivals if r.step_s is None}
    assert "no experts" in remarks["expert_parallel"]
    assert "no sequence" in remarks["sequence_parallel"]
    assert {r.mesh for r in p.certificate.rivals if r.name == "expert_parallel"} == {"any"}


def test_all_say_where_they_come_from() -> None:
    for name, strategy in STRATEGIES.items():
        assert strategy_of(name) is strategy
        assert strategy.name == name
        assert "arXiv:" in strategy.source
