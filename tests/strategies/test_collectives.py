"""Every strategy has the collectives of its paper, and lays state where its paper does."""

from collections import Counter

import pytest

from autoshard import plan
from autoshard.errors import StrategyError
from autoshard.models.zoo import zoo
from autoshard.plan.model import Plan
from autoshard.strategies import STRATEGIES

BATCH = 8


def planned(model: str, strategy: str, **mesh: int) -> Plan:
    """A plan of a zoo model; nothing is allocated, so that large ones cost no more than small."""
    step, args = zoo(model, batch_size=BATCH)
    devices = 1
    for size in mesh.values():
        devices *= size
    return plan(step, *args, on=f"{devices}xh100", mesh=mesh, strategy=strategy, donate_argnums=0)


def kinds(p: Plan, axis: str, reason: str = "", *, shape: str = "") -> Counter[str]:
    """How often each kind of collective runs over an axis, for a reason and on a shape."""
    found: Counter[str] = Counter()
    for c in p.collectives:
        if axis in c.axes and reason in c.reason and shape in c.tensor:
            found[c.kind] += c.count
    return found


def split(p: Plan, role: str) -> set[str]:
    return {leaf.path for leaf in p.leaves(role) if not leaf.spec.is_replicated}


def whole(p: Plan, role: str) -> set[str]:
    return {leaf.path for leaf in p.leaves(role) if leaf.spec.is_replicated and leaf.shape}


def test_data_parallel_sums_gradients_and_nothing_else() -> None:
    p = planned("mlp-tiny", "data_parallel", data=8)
    assert set(kinds(p, "data")) == {"all-reduce"}
    assert not split(p, "parameter") | split(p, "optimizer")


def test_zero1_scatters_gradients_and_gathers_new_parameters_once() -> None:
    p = planned("mlp-8k", "zero1", data=8)
    matrices = {leaf.path for leaf in p.leaves("parameter") if len(leaf.shape) == 2}
    assert not split(p, "parameter")
    assert not whole(p, "optimizer")
    assert not kinds(p, "data", "parameter gathered for use")
    updated = kinds(p, "data", "new state back to where it rests")
    assert updated == {"all-gather": len(list(p.leaves("parameter")))}
    assert kinds(p, "data", "gradient summed") == {"reduce-scatter": len(matrices)}


def test_zero3_gathers_weights_for_use_and_scatters_gradients() -> None:
    p = planned("mlp-8k", "zero3", data=8)
    assert not whole(p, "parameter") | whole(p, "optimizer")
    gathered = [c for c in p.collectives if c.reason == "parameter gathered for use"]
    assert {c.kind for c in gathered} == {"all-gather"}
    # At rest they are float32; they travel as the two bytes an element that products read.
    assert {c.bytes for c in gathered if "," in c.tensor} == {8192 * 32768 * 2}
    assert kinds(p, "data", "gradient summed") == {"reduce-scatter": 4}
    assert not kinds(p, "data", "new state")


RESIDUAL = f"bfloat16[{BATCH},64,64]"  # gpt-tiny: batch, sequence, embedding
LAYERS = 2


def test_megatron_reduces_the_residual_stream_and_never_scatters_it() -> None:
    found = kinds(planned("gpt-tiny", "megatron", tensor=2), "tensor", shape=RESIDUAL)
    # After each pair of products, forwards and backwards; queries, keys and values share one.
    # The head, outside the loop, may do as it likes.
    assert found["all-reduce"] - 4 * LAYERS in (0, 1)
    assert set(found) <= {"all-reduce", "all-gather"}


def test_sequence_parallel_gathers_and_scatters_instead() -> None:
    p = planned("gpt-tiny", "sequence_parallel", data=2, tensor=2)
    found = kinds(p, "tensor", shape=RESIDUAL)
    assert not found["all-reduce"]
    assert found["reduce-scatter"] >= 4 * LAYERS
    assert found["all-gather"] >= 4 * LAYERS


def test_context_parallel_moves_keys_and_values_in_attention_and_no_weights() -> None:
    p = planned("gpt-tiny", "context_parallel", tensor=4)
    assert not split(p, "parameter") | split(p, "optimizer")
    heads = kinds(p, "tensor", shape=f"bfloat16[{BATCH},64,4,16]")  # keys, values: forwards
    heads += kinds(p, "tensor", shape=f"bfloat16[{BATCH},4,64,16]")  # their gradients: backwards
    heads += kinds(p, "tensor", shape=f"bfloat16[{BATCH},4,16,64]")
    assert heads["all-gather"] >= 2 * LAYERS
    assert heads["reduce-scatter"] >= LAYERS
    assert not kinds(p, "tensor", "parameter gathered")
    assert not kinds(p, "tensor", shape=RESIDUAL)


def test_expert_parallel_sends_tokens_to_experts_and_back() -> None:
    p = planned("moe-tiny", "expert_parallel", data=4)
    found = kinds(p, "data")
    # To the experts and back, forwards and backwards, in each of two layers.
    assert found["all-to-all"] == 2 * 2 * 2
    assert set(found) == {"all-to-all", "all-reduce"}
    assert split(p, "parameter") == {
        f"state['params']['layers']['experts'][{name!r}]" for name in ("down", "gate", "up")
    }


def test_strategies_of_different_axes_combine() -> None:
    p = planned("gpt-tiny", "zero1+sequence_parallel", data=2, tensor=2)
    assert p.strategy == "zero1+sequence_parallel"
    assert not kinds(p, "tensor", shape=RESIDUAL)["all-reduce"]
    assert kinds(p, "data", "new state back to where it rests")["all-gather"]


SEQUENCES = ("sequence_parallel", "context_parallel")
WITHOUT_SEQUENCE = ("vit", "wrn", "dlrm", "gnn")  # of vit-tiny it is odd


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "expert_parallel"])
@pytest.mark.parametrize("model", "gpt llama vit t5 moe ssm unet wrn dlrm gnn".split())
def test_every_model_has_a_plan_or_a_reason(model: str, strategy: str) -> None:
    if strategy in SEQUENCES and model in WITHOUT_SEQUENCE:
        with pytest.raises(StrategyError, match="does not apply"):
            planned(f"{model}-tiny", strategy, data=2, tensor=2)
    else:
        p = planned(f"{model}-tiny", strategy, data=2, tensor=2)
        assert p.certificate.gap < 0.05
