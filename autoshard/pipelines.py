"""Whether to cut a step's layers into stages, and how.

A pipeline costs idle ticks and saves memory and communication: weights stay where they are, and of
activations only the stream between layers is handed on. Which stages, microbatches and meshes may
be worth planning is estimated from the program as it is written, in milliseconds; the best of those
are then planned as any other form of the step, and judged by the same predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from autoshard.cost.collectives import collective_time_s
from autoshard.errors import InfeasibleError, PipelineError, SearchInterrupted
from autoshard.machine import LogicalMesh, Machine, MachineError, mesh_from_sizes
from autoshard.options import Options
from autoshard.plan.model import Rival
from autoshard.plan.pipeline import DATA, PIPE, TENSOR, Pipeline
from autoshard.program.ir import Program, Region, Role
from autoshard.trace.function import Traced
from autoshard.trace.microbatch import batch_size
from autoshard.trace.variants import AS_WRITTEN, Variant, Variants
from autoshard.variants import Candidate, word

# Of the meshes that look best, how many are planned: each takes about as long as a plan without.
_MOST_PLANNED = 2
# By how much a pipeline must be predicted faster than the best plan without one: what is not
# priced (kernels started once more per tick, imperfect overlap) all speaks against it.
_WORTH = 0.05
# More microbatches than this many per stage shrink the bubble no more to speak of.
_MOST_ROUNDS = 16
# Of the matrix unit's rate, what large products reach where nothing better is known.
_REACHED = 0.7
# Gathers and scatters of the stream over `tensor` that a layer's forward and backward passes take,
# with sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).
_EXCHANGES = 8

# What layers' parameters go through on their way into one stack.
_STACKING = frozenset(
    {"broadcast_in_dim", "concatenate", "convert_element_type", "reshape", "stack"}
)

# (form, mesh, limit in bytes, seconds) -> plan; raises InfeasibleError.
SearchOn = Callable[[Traced, LogicalMesh, float, float], Candidate]


@dataclass(frozen=True)
class Stack:
    """What a program's loops over layers amount to.

    Attributes:
        layers: trips of the loop with most work.
        flops: of matmuls in such loops, and
        other_flops: elsewhere; per step, over all devices.
        weight_bytes: of the stacked parameters, whole.
        stream_bytes: of what is carried from layer to layer, whole.
        state_bytes: of all parameters and optimizer state, whole.
        batch: examples.
    """

    layers: int
    flops: float
    other_flops: float
    weight_bytes: float
    stream_bytes: float
    state_bytes: float
    batch: int


def stack_of(program: Program, batch: int) -> Stack | None:
    """The loops over layers of a program; None without one."""
    roles = (Role.PARAMETER, Role.OPTIMIZER)
    state = {x.tensor for x in program.inputs if x.role in roles and x.tensor is not None}
    seen = {t: t for t in state}  # state as loops around see it -> what it is
    weights: dict[int, set[int]] = {}
    stream: dict[int, float] = {}
    for op in program.ops:
        source = op.inputs[0] if op.inputs else None
        if op.kind == "scan_const" and source in seen:
            seen[op.outputs[0]] = seen[source]
        if op.kind in _STACKING and all(t in seen for t in op.inputs):
            seen[op.outputs[0]] = op.outputs[0]
        if op.kind == "scan_xs" and source in seen:
            weights.setdefault(op.region, set()).add(seen[source])
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
        state_bytes=sum(program.tensors[t].size_bytes for t in state),
        batch=batch,
    )


def _around(program: Program, region: int, loops: Mapping[int, float]) -> Region | None:
    """The loop over layers that a region lies in."""
    found = program.regions[region]
    while found.id not in loops:
        if found.parent == found.id:
            return None
        found = program.regions[found.parent]
    return found


def pipelines(stack: Stack, n_devices: int, most_stages: int | None = None) -> Iterator[Pipeline]:
    """All that divide the machine and the batch."""
    for stages in _divisors(n_devices):
        if stages < 2 or stages > min(stack.layers, most_stages or stack.layers):
            continue
        for data in _divisors(n_devices // stages):
            if stack.batch % data:
                continue
            own = stack.batch // data
            for parts in _divisors(own):
                # Multiples of the stages leave what the last stage makes dealt out over all.
                if parts % stages == 0 and parts <= _MOST_ROUNDS * stages:
                    yield Pipeline(stages, parts, data, n_devices // stages // data)


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
    own = -(-stack.layers // pipe.stages)
    uneven = own * pipe.stages / stack.layers
    part = stack.stream_bytes / (pipe.data * pipe.microbatches)
    weights = stack.weight_bytes / (pipe.stages * pipe.tensor)
    seconds = compute_s * (1 - inside) + compute_s * inside * uneven / (1 - pipe.bubble)
    for axis, kind, size, times in (
        (TENSOR, "all-gather", part, _EXCHANGES * own * pipe.ticks),
        (PIPE, "permute", part / pipe.tensor, 2 * pipe.ticks),
        (DATA, "reduce-scatter", weights, 1),
        (DATA, "all-gather", weights, 1),
        (PIPE, "all-gather", stack.stream_bytes / (pipe.data * pipe.tensor), 4),
    ):
        seconds += float(collective_time_s(kind, axes[axis], size)) * times
    state = max(stack.state_bytes / machine.n_devices, weights)
    kept = own * pipe.ticks * part / pipe.tensor
    return Estimate(pipe, mesh, seconds, state + weights + kept)


def promising(
    stack: Stack,
    machine: Machine,
    options: Options,
    limit_bytes: float,
    known: Candidate | None,
    *,
    asked: bool,
) -> list[Estimate]:
    """Pipelines that are worth planning, the most promising first, one for each mesh.

    Args:
        stack: of the program.
        machine: where.
        options: as asked for.
        limit_bytes: per device.
        known: the best plan without a pipeline, if there is one.
        asked: whether the user asks for a pipeline.
    """
    compute_s = None if known is None else known.plan.prediction.compute_s
    found = []
    for pipe in pipelines(stack, machine.n_devices):
        if asked and not _is_as_asked(pipe, options):
            continue
        guess = estimate(stack, pipe, machine, compute_s)
        if guess is not None and (asked or guess.peak_bytes <= limit_bytes):
            found.append(guess)
    found.sort(key=lambda guess: guess.seconds)
    best: dict[tuple[int, ...], Estimate] = {}
    for guess in found:
        best.setdefault(tuple(guess.pipe.sizes.values()), guess)
    if known is not None:
        enough_s = known.plan.prediction.step_s * (1 - _WORTH)
        return [guess for guess in best.values() if guess.seconds < enough_s][:_MOST_PLANNED]
    return [*best.values()][:_MOST_PLANNED]


def is_asked(options: Options, program: Program) -> bool:
    """Whether the user asks for a pipeline, so that nothing else will do.

    A mesh that the program itself speaks of is the user's own, whatever its axes are called.

    Raises:
        PipelineError: a number of stages is asked for, and the program speaks of a mesh.
    """
    stages = options.pipeline not in ("auto", False)
    if program.mesh_sizes:
        if stages:
            own = " x ".join(f"{name} {size}" for name, size in program.mesh_sizes)
            raise PipelineError(
                f"pipeline={options.pipeline}, but {program.name!r} has layouts inside that are for"
                f" a mesh {own}: leave one of the two out"
            )
        return False
    return stages or (options.pipeline is not False and bool(_asked(options)))


def may_help(options: Options, program: Program) -> bool:
    """Whether cutting layers into stages is up to us, should it be better."""
    free = isinstance(options.mesh, str) and options.strategy == "auto" and not options.intent
    undivided = options.microbatch in (1, "auto")  # else it is said in how many parts to run
    return options.pipeline == "auto" and free and undivided and not program.mesh_sizes


def _asked(options: Options) -> dict[str, int]:
    """The sizes of a mesh with stages that the user gives."""
    mesh = options.mesh
    given = isinstance(mesh, Mapping) and PIPE in mesh and {*mesh} <= {PIPE, DATA, TENSOR}
    if not given or mesh[PIPE] < 2:
        return {}
    return {DATA: 1, TENSOR: 1} | {str(k): int(v) for k, v in mesh.items()}


def _is_as_asked(pipe: Pipeline, options: Options) -> bool:
    """Whether a pipeline has the sizes, stages and microbatches that the user says."""
    stages, parts = options.pipeline, options.microbatch
    return (
        all(pipe.sizes[name] == size for name, size in _asked(options).items())
        and (type(stages) is not int or pipe.stages == stages)
        and (type(parts) is not int or parts == 1 or pipe.microbatches == parts)
    )


def with_stages(
    variants: Variants,
    options: Options,
    machine: Machine,
    limit_bytes: float,
    known: Candidate | InfeasibleError | None,
    search: SearchOn,
    tell: Callable[[str], None],
) -> Candidate:
    """The best of what is known and of the pipelines that may be better.

    Args:
        variants: of the step.
        options: as asked for.
        machine: where.
        limit_bytes: per device.
        known: the best plan without a pipeline, or why there is none; None if that is no answer,
            since the user asks for a pipeline.
        search: plans one form on one mesh.
        tell: receives a line of text per pipeline.

    Raises:
        InfeasibleError: nothing fits.
        PipelineError: a pipeline is asked for, and cannot be had.
    """
    plain = known if isinstance(known, Candidate) else None
    remat = _remat(options, plain)
    try:
        batch = batch_size(variants.plain)
        stack = stack_of(variants.plain.program, batch)
        if stack is None and plain is None:  # layers one after the other are found in seconds
            stack = stack_of(variants.layers(remat).program, batch)
        guesses = (
            []
            if stack is None
            else promising(stack, machine, options, limit_bytes, plain, asked=known is None)
        )
        layers = variants.layers(remat) if guesses or known is None else None
    except ValueError as error:  # no batch, or no layers that may be cut
        if known is None:
            raise PipelineError(str(error)) from error
        guesses, layers = [], None
    if known is None and not guesses:
        assert layers is not None
        raise PipelineError(
            f"no pipeline of {max(layers.counts)} layers for a batch of {layers.batch} on"
            f" {machine.n_devices} devices is as asked for: the number of stages must divide the"
            " devices and the number of microbatches, and all shards' microbatches the batch"
        )
    best, refused, rivals = plain, list[InfeasibleError](), list[Rival]()
    for guess in guesses:
        form = Variant(remat=remat, pipeline=guess.pipe)
        tell(f"step {form}")
        try:
            left_s = options.time_limit_s / len(guesses)
            found = search(variants.of(form), guess.mesh, limit_bytes, left_s)
        except InfeasibleError as error:
            refused.append(error)
            rivals.append(Rival(f"step {form}", str(guess.mesh), None, None, "does not fit"))
            continue
        except SearchInterrupted:
            if best is None:
                raise
            best = replace(best, interrupted=True)
            break
        plan = replace(found.plan, remat=form.remat, pipeline=guess.pipe)
        found = replace(found, plan=plan)
        loser: Candidate | None = found
        if best is None or _is_better(found, best):
            best, loser = found, best
        if loser is not None:
            rivals.append(_rival(loser))
    if best is None:
        errors = [*([known] if isinstance(known, InfeasibleError) else []), *refused]
        raise min(errors, key=lambda each: each.least_bytes or float("inf"))
    certificate = best.plan.certificate
    certificate = replace(certificate, rivals=(*certificate.rivals, *rivals))
    return replace(best, plan=replace(best.plan, certificate=certificate))


def _remat(options: Options, plain: Candidate | None) -> str:
    """The form of the layers: as asked for, or as in the best plan without stages."""
    if options.remat != "auto":
        return word(options.remat)
    return AS_WRITTEN if plain is None else plain.plan.remat


def _is_better(found: Candidate, best: Candidate) -> bool:
    """Whether a pipeline beats another, or noticeably what has none."""
    worth = 1.0 if best.plan.pipeline is not None else 1 - _WORTH
    return found.plan.prediction.step_s < best.plan.prediction.step_s * worth


def _rival(loser: Candidate) -> Rival:
    plan = loser.plan
    form = Variant(plan.microbatches, plan.remat, plan.pipeline)
    p = plan.prediction
    return Rival(f"step {form}", str(plan.mesh), p.step_s, p.peak_bytes)
