"""What cutting a step's layers into stages may come to: from a few numbers, in milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from autoshard.cost.collectives import collective_time_s
from autoshard.machine import LogicalMesh, Machine, MachineError, mesh_from_sizes
from autoshard.plan.pipeline import DATA, PIPE, TENSOR, Pipeline
from autoshard.program.ir import Program, Region, Role
from autoshard.schedules import CIRCULAR, GPIPE, ONE_F_ONE_B, SCHEDULES
from autoshard.search.boundaries import boundaries

# More microbatches than this many per stage shrink the bubble no more to speak of.
_MOST_ROUNDS = 16
# For each order of microbatches: how often they go round, and whether heads are dealt out. Round
# more than four times, and ticks are launches and little else.
_WAYS = {
    GPIPE: ((1, False),),
    ONE_F_ONE_B: ((1, True), (1, False)),
    CIRCULAR: ((2, False), (4, False)),
}
# Of the matrix unit's rate, what large products reach where nothing better is known.
_REACHED = 0.7
# Gradients, and a copy of half the width to compute with: in parts of the weights' own size.
_GRADIENTS, _COPY = 1.0, 0.5
# Weights that are cast for every microbatch are read, written in half the width and read again:
# forward, and for the gradients of either operand. In parts of their own size.
_CASTS = 3 * (1 + 2 * _COPY)
# How many arrays as wide as the widest are there at once: scores of attention as they are, as
# weights, and their gradient.
_WIDEST = 3
# Gathers and scatters of the stream over `tensor` that a layer's forward and backward passes take,
# with sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).
_EXCHANGES = 8

# What layers' parameters go through on their way into one stack.
_STACKING = frozenset(
    {"broadcast_in_dim", "concatenate", "convert_element_type", "reshape", "stack"}
)


@dataclass(frozen=True)
class Stack:
    """What a program's loops over layers amount to.

    Attributes:
        layers: trips of the loop with most work.
        flops: of matmuls in such loops, and
        other_flops: elsewhere; per step, over all devices.
        weight_bytes: of the stacked parameters, whole.
        stream_bytes: of what is carried from layer to layer, whole.
        kept_bytes: of what the layers keep for the way back, whole.
        widest_bytes: of the largest array that a layer makes, whole.
        state_bytes: of all parameters and optimizer state, whole.
        batch: examples.
        loops: how many loops there are, there and back.
        each: flops of each layer, where layers are of several kinds.
    """

    layers: int
    flops: float
    other_flops: float
    weight_bytes: float
    stream_bytes: float
    kept_bytes: float
    widest_bytes: float
    state_bytes: float
    batch: int
    loops: int
    each: tuple[float, ...] = ()

    def uneven(self, counts: Sequence[int]) -> float:
        """How much longer the slowest of some chunks takes than if all had as much to do."""
        if not self.each:
            return max(counts) * len(counts) / self.layers
        ends = [0, *accumulate(counts)]
        work = [sum(self.each[a:b]) for a, b in pairwise(ends)]
        return max(work) * len(work) / sum(work)


def stack_of(program: Program, batch: int) -> Stack | None:
    """The loops over layers of a program; None without one."""
    roles = (Role.PARAMETER, Role.OPTIMIZER)
    state = {x.tensor for x in program.inputs if x.role in roles and x.tensor is not None}
    seen = {t: t for t in state}  # state as loops around see it -> what it is
    weights: dict[int, set[int]] = {}
    stream: dict[int, float] = {}
    made, kept = set[int](), set[int]()  # stacks made in loops, and read in others
    for op in program.ops:
        source = op.inputs[0] if op.inputs else None
        if op.kind == "scan_const" and source in seen:
            seen[op.outputs[0]] = seen[source]
        if op.kind in _STACKING and all(t in seen for t in op.inputs):
            seen[op.outputs[0]] = op.outputs[0]
        if op.kind == "scan_xs" and source in seen:
            weights.setdefault(op.region, set()).add(seen[source])
        if op.kind == "scan_ys":
            made.add(op.outputs[0])
        if op.kind == "scan_xs" and source in made:
            kept.add(source)
        if op.kind == "scan_carry":
            size = program.tensors[op.outputs[0]].size_bytes
            stream[op.region] = max(size, stream.get(op.region, 0.0))
    flops = {region: 0.0 for region in weights}
    other = 0.0
    for op in program.ops:
        if op.rule.op_class.is_matrix:
            work = op.rule.flops * program.times(op.region)
            loop = _around(program, op.region, flops)
            if loop is None:
                other += work
            else:
                flops[loop.id] += work
    if not any(flops.values()):
        return None
    most = max(flops, key=lambda region: flops[region])
    stacked = set().union(*weights.values())
    return Stack(
        layers=program.regions[most].trip_count,
        flops=sum(flops.values()),
        other_flops=other,
        weight_bytes=sum(program.tensors[t].size_bytes for t in stacked),
        stream_bytes=max(stream.get(most, 0.0), 1.0),
        kept_bytes=sum(program.tensors[t].size_bytes for t in kept),
        widest_bytes=max(
            program.tensors[t].size_bytes
            for op in program.ops
            if op.rule.op_class.is_matrix and _around(program, op.region, flops) is not None
            for t in op.outputs
        ),
        state_bytes=sum(program.tensors[t].size_bytes for t in state),
        batch=batch,
        loops=len(weights),
    )


def _around(program: Program, region: int, loops: Mapping[int, float]) -> Region | None:
    """The loop over layers that a region lies in."""
    found = program.regions[region]
    while found.id not in loops:
        if found.parent == found.id:
            return None
        found = program.regions[found.parent]
    return found


def pipelines(
    stack: Stack, n_devices: int, schedules: Collection[str] = tuple(SCHEDULES)
) -> Iterator[Pipeline]:
    """All that divide the machine and the batch, in some orders of microbatches."""
    for stages in _divisors(n_devices):
        if stages < 2 or stages > stack.layers:
            continue
        for data in _divisors(n_devices // stages):
            if stack.batch % data:
                continue
            own = stack.batch // data
            for parts in _divisors(own):
                # Multiples of the stages leave what the last stage makes dealt out over all.
                if parts % stages or parts > _MOST_ROUNDS * stages:
                    continue
                pipe = Pipeline(stages, parts, data, n_devices // stages // data)
                for schedule in schedules:
                    yield from _in_order(stack, pipe, schedule)


def _in_order(stack: Stack, pipe: Pipeline, schedule: str) -> Iterator[Pipeline]:
    """One with its microbatches in some order."""
    for chunks, dealt in _WAYS[schedule]:
        pieces = pipe.stages * chunks
        if pieces > stack.layers:
            continue
        if stack.each:
            # Which branches a chunk takes is not followed into it: its price would be wrong.
            if chunks == 1:
                cuts = boundaries(stack.each, pieces)
                yield replace(pipe, schedule=schedule, dealt=dealt, layers=cuts)
            continue
        divides = stack.layers % pieces == 0
        ordered = replace(pipe, schedule=schedule, chunks=chunks, dealt=dealt)
        yield ordered
        if divides:  # stacks that are filled up are copied anyway
            yield replace(ordered, cast_once=False)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@dataclass(frozen=True)
class Estimate:
    """What a pipeline may take, roughly.

    Attributes:
        pipe: it.
        mesh: laid on the machine.
        seconds: of a step.
        peak_bytes: on one device.
    """

    pipe: Pipeline
    mesh: LogicalMesh
    seconds: float
    peak_bytes: float


def estimate(
    stack: Stack, pipe: Pipeline, machine: Machine, compute_s: float | None
) -> Estimate | None:
    """Price a pipeline from a few numbers.

    Args:
        stack: of the program.
        pipe: how.
        machine: where.
        compute_s: what the best plan without a pipeline computes for; None if there is none.

    Returns:
        None where the mesh cannot be laid on the machine.
    """
    try:
        mesh = mesh_from_sizes(machine, pipe.sizes)
    except MachineError:
        return None
    axes = {axis.name: axis for axis in mesh.axes}
    total = stack.flops + stack.other_flops
    if compute_s is None:
        rate = max(machine.chip.flops_per_s(dtype) for dtype in ("bfloat16", "float32"))
        compute_s = total / (rate * _REACHED * machine.n_devices)
    inside = stack.flops / total
    counts = pipe.layers_of(stack.layers)
    own = max(counts)  # in a tick
    filled = own * len(counts) / stack.layers
    uneven = stack.uneven(counts)
    stream = stack.stream_bytes / (pipe.data * pipe.tensor)
    part = stack.stream_bytes / (pipe.data * pipe.microbatches)
    weights = stack.weight_bytes / (pipe.stages * pipe.tensor)
    # What comes after the layers is dealt out over the stages, or done by all of them at each tick.
    dealt = pipe.stages if pipe.schedule == ONE_F_ONE_B and not pipe.dealt else 1
    moved = weights if pipe.schedule == CIRCULAR else 0.0
    seconds = compute_s * (1 - inside) * dealt + compute_s * inside * uneven / (1 - pipe.bubble)
    for axis, kind, size, times in (
        (TENSOR, "all-gather", part, _EXCHANGES * own * pipe.ticks),
        (PIPE, "permute", part / pipe.tensor, 2 * pipe.ticks),
        (DATA, "reduce-scatter", weights, 1),
        (DATA, "all-gather", weights, 1),
        (PIPE, "all-gather", stream, 4),
        (PIPE, "all-to-all", (_COPY + _GRADIENTS) * moved, 1),
    ):
        seconds += float(collective_time_s(kind, axes[axis], size)) * times
    if not pipe.cast_once:
        seconds += pipe.ticks * _CASTS * weights / machine.chip.memory_bytes_per_s
    kept = stack.kept_bytes / (pipe.stages * pipe.data * pipe.tensor) * filled
    kept *= pipe.at_once / pipe.microbatches
    held = stack.state_bytes / machine.n_devices  # split over all devices, at best
    held += (_GRADIENTS + _COPY * pipe.cast_once) * weights
    held += _WIDEST * stack.widest_bytes / (pipe.data * pipe.microbatches * pipe.tensor)
    held += 0.0 if pipe.schedule == ONE_F_ONE_B else 2 * stream
    return Estimate(pipe, mesh, seconds, held + kept)
