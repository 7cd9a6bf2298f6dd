"""What may run beside which matmuls."""

import pytest

from autoshard.machine import parse_machine
from autoshard.models.zoo import zoo
from autoshard.search.build import Analysis
from autoshard.search.hiding import budgets_s
from autoshard.search.kinds import WITHOUT_BATCH
from tests.search.programs import traced

CHIP = parse_machine("v5e:2x4").chip


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    step, args = zoo("gpt-tiny", batch_size=8)
    return Analysis(traced(step, *args, donated=frozenset({0})).program)


def test_a_loop_body_hides_no_more_than_its_matmuls_take(analysis):
    program, graph = analysis.program, analysis.graph
    budgets = budgets_s(graph, analysis.kinds, CHIP, 8)
    for region in program.regions:
        if region.kind != "scan":
            continue
        inside = {region.id} | {
            r.id for r in program.regions if r.kind == "remat" and r.parent == region.id
        }
        matmul_s = sum(
            op.rule.flops / 8 / CHIP.flops_per_s("bfloat16")
            for op in program.ops
            if op.region in inside and op.rule.op_class.is_matrix
        )
        here = [b for f, b in zip(graph.flows, budgets, strict=True) if f.region in inside]
        assert 0 < sum(here) == pytest.approx(matmul_s)


def test_activations_and_new_state_hide_behind_nothing(analysis):
    flows = analysis.graph.flows
    budgets = budgets_s(analysis.graph, analysis.kinds, CHIP, 8)
    parameters = WITHOUT_BATCH
    kinds = analysis.kinds
    waiting = [
        b
        for f, b in zip(flows, budgets, strict=True)
        if f.into == "new state" or parameters.isdisjoint({kinds[f.src], kinds[f.dst]})
    ]
    assert waiting
    assert not any(waiting)


def test_more_devices_leave_less_to_hide_behind(analysis):
    one = budgets_s(analysis.graph, analysis.kinds, CHIP, 1)
    four = budgets_s(analysis.graph, analysis.kinds, CHIP, 4)
    assert sum(four) == pytest.approx(sum(one) / 4)
