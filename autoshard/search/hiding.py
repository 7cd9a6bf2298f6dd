"""Beside which matmuls each reshard may run.

Parameters on their way to a use and gradients on their way to the optimizer wait for no
activation, so XLA runs them beside the matmuls of the same loop body (`autoshard/cost/overlap.py`).
A body's matmul time is shared among them by bytes, sums twice, since an all-reduce moves its
tensor twice: where all of them move, as in ZeRO-3, the shares add up to what can be hidden, and
where only some do, the rest of the time is left unused, which errs on the safe side.

An activation on its way to or from a matmul can hide only behind that matmul.
"""

from __future__ import annotations

from collections import defaultdict

from autoshard.cost.overlap import Beside
from autoshard.machine.model import Chip
from autoshard.program.ir import Op, Program
from autoshard.search.graph import Flow, Graph
from autoshard.search.kinds import WITHOUT_BATCH, Kind

# The new state leaves when no matmul is left in the step.
_LAST = "new state"
# XLA sends collectives of one kind as one up to this size: `xla_gpu_all_reduce_combine_threshold`
# and its like, 30 MiB (https://github.com/openxla/xla/blob/main/xla/debug_options_flags.cc).
COMBINED_BYTES = 30 * 2**20


def beside(graph: Graph, kinds: tuple[Kind, ...], chip: Chip, n_devices: int) -> tuple[Beside, ...]:
    """What runs beside each flow's reshard.

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
            matmul_s[loops[op.region]] += _matmul_s(program, op, chip, n_devices)
    weights = [_weight(flow, program, kinds) for flow in graph.flows]
    total: dict[int, float] = defaultdict(float)
    alike: dict[tuple[int, bool], int] = defaultdict(int)
    for flow, weight in zip(graph.flows, weights, strict=True):
        total[loops[flow.region]] += weight
        if weight:
            alike[loops[flow.region], bool(flow.partial)] += 1

    def of(flow: Flow, weight: float) -> Beside:
        loop = loops[flow.region]
        if weight:
            size = program.tensors[flow.tensor].size_bytes
            part = max(1 / alike[loop, bool(flow.partial)], min(1.0, size / COMBINED_BYTES))
            return Beside(matmul_s[loop] * weight / total[loop], latency_part=part)
        own = [graph.nodes[n].own for n in (flow.src, flow.dst) if kinds[n] is Kind.MATMUL]
        products = [program.ops[o] for o in own if o is not None]
        if len(products) != 1:
            return Beside()
        return Beside(_matmul_s(program, products[0], chip, n_devices), windowed=True)

    return tuple(of(flow, weight) for flow, weight in zip(graph.flows, weights, strict=True))


def _matmul_s(program: Program, op: Op, chip: Chip, n_devices: int) -> float:
    first = next((t for t in op.inputs if t is not None), op.outputs[0])
    share = n_devices / program.shards(op.region)  # code for one shard counts its own work alone
    return op.rule.flops / (chip.flops_per_s(program.tensors[first].dtype) * share)


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
