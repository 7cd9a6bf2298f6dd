"""Beside which matmuls each reshard may run.

Parameters on their way to a use and gradients on their way to the optimizer wait for no
activation, so XLA runs them beside the matmuls of the same loop body (`autoshard/cost/overlap.py`).
A body's matmul time is shared among them by bytes, sums twice, since an all-reduce moves its
tensor twice: where all of them move, as in ZeRO-3, the shares add up to what can be hidden, and
where only some do, the rest of the time is left unused, which errs on the safe side.
"""

from __future__ import annotations

from collections import defaultdict

from autoshard.machine.model import Chip
from autoshard.program.ir import Program
from autoshard.search.graph import Flow, Graph
from autoshard.search.kinds import WITHOUT_BATCH, Kind

# The new state leaves when no matmul is left in the step.
_LAST = "new state"


def budgets_s(
    graph: Graph, kinds: tuple[Kind, ...], chip: Chip, n_devices: int
) -> tuple[float, ...]:
    """Per flow, the seconds of matmuls that one occurrence of its reshard may hide behind.

    Args:
        graph: the decisions.
        kinds: of its nodes.
        chip: whose matmul rate counts.
        n_devices: that share the matmuls evenly; with less even layouts there is more to hide
            behind.
    """
    program = graph.program
    loops = [_loop(program, region.id) for region in program.regions]
    matmul_s: dict[int, float] = defaultdict(float)
    for op in program.ops:
        if op.rule.op_class.is_matrix:
            first = next((t for t in op.inputs if t is not None), op.outputs[0])
            rate = chip.flops_per_s(program.tensors[first].dtype) * n_devices
            matmul_s[loops[op.region]] += op.rule.flops / rate
    weights = [_weight(flow, program, kinds) for flow in graph.flows]
    total: dict[int, float] = defaultdict(float)
    for flow, weight in zip(graph.flows, weights, strict=True):
        total[loops[flow.region]] += weight
    return tuple(
        matmul_s[loop] * weight / total[loop] if weight else 0.0
        for flow, weight in zip(graph.flows, weights, strict=True)
        for loop in (loops[flow.region],)
    )


def _weight(flow: Flow, program: Program, kinds: tuple[Kind, ...]) -> float:
    if flow.into == _LAST or WITHOUT_BATCH.isdisjoint((kinds[flow.src], kinds[flow.dst])):
        return 0.0
    return program.tensors[flow.tensor].size_bytes * (2 if flow.partial else 1)


def _loop(program: Program, region: int) -> int:
    """The loop body, or the top level, that a region's ops are scheduled in."""
    found = program.regions[region]
    while found.kind in ("remat", "branch"):
        found = program.regions[found.parent]
    return found.id
