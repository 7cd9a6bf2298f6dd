"""What may run beside which matmuls."""

import pytest

from autoshard.machine import parse_machine
from autoshard.models.zoo import zoo
from autoshard.search.build import Analysis
from autoshard.search.hiding import beside
from autoshard.search.kinds import WITHOUT_BATCH
from tests.search.programs import traced

CHIP = parse_machine("v5e:2x4").chip


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    step, args = zoo("gpt-tiny", batch_size=8)
    return Analysis(traced(step, *args, donated=frozenset({0})).program)


def test_a_loop_body_hides_no_more_than_its_matmuls_take(analysis):
    program, graph = analysis.program, analysis.graph
    budgets = [0.0 if b.windowed else b.budget_s for b in beside(graph, analysis.kinds, CHIP, 8)]
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


def test_activations_hide_behind_their_own_matmul_at_most(analysis):
    graph, kinds = analysis.graph, analysis.kinds
    found = list(zip(graph.flows, beside(graph, kinds, CHIP, 8), strict=True))
    last = [b for f, b in found if f.into == "new state"]
    waiting = [b for f, b in found if WITHOUT_BATCH.isdisjoint({kinds[f.src], kinds[f.dst]})]
    assert last
    assert all(b.budget_s == 0 for b in last)
    assert any(b.windowed for b in waiting)
    assert all(b.windowed or b.budget_s == 0 for b in waiting)
    assert all(b.latency_part == 1 for b in waiting)


def test_small_parameters_share_a_latency(analysis):
    found = beside(analysis.graph, analysis.kinds, CHIP, 8)
    parts = [b.latency_part for b in found if b.budget_s and not b.windowed]
    assert parts
    assert all(0 < part < 1 for part in parts)


def test_more_devices_leave_less_to_hide_behind(analysis):
    one = [b.budget_s for b in beside(analysis.graph, analysis.kinds, CHIP, 1)]
    four = [b.budget_s for b in beside(analysis.graph, analysis.kinds, CHIP, 4)]
    assert sum(four) == pytest.approx(sum(one) / 4)
