"""Whether to cut a step's layers into stages, and how.

A pipeline costs idle ticks and saves memory and communication: weights stay where they are, and of
activations only the stream between layers is handed on. Which stages, microbatches and meshes may
be worth planning is estimated from the program as it is written, in milliseconds; the best of those
are then planned as any other form of the step, and judged by the same predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from autoshard.errors import InfeasibleError, PipelineError, SearchInterrupted
from autoshard.machine import LogicalMesh, Machine
from autoshard.options import Options
from autoshard.plan.model import Rival
from autoshard.plan.pipeline import DATA, PIPE, TENSOR, Pipeline
from autoshard.program.ir import Program
from autoshard.schedules import CIRCULAR, ONE_F_ONE_B, SCHEDULES
from autoshard.stacks import Estimate, Stack, estimate, pipelines, stack_of
from autoshard.trace.function import Traced
from autoshard.trace.microbatch import batch_size
from autoshard.trace.variants import AS_WRITTEN, Variant, Variants
from autoshard.variants import Candidate, word

# Of the meshes that look best, how many are planned: each takes about as long as a plan without.
_MOST_PLANNED = 2
# By how much a pipeline must be predicted faster than the best plan without one: what is not
# priced (kernels started once more per tick, imperfect overlap) all speaks against it.
_WORTH = 0.05

# A loop over layers, and the one back.
_PAIR = 2

# (form, mesh, limit in bytes, seconds) -> plan; raises InfeasibleError.
SearchOn = Callable[[Traced, LogicalMesh, float, float], Candidate]


def promising(
    stack: Stack,
    machine: Machine,
    options: Options,
    limit_bytes: float,
    known: Candidate | None,
    *,
    asked: bool,
    schedules: Collection[str],
) -> list[Estimate]:
    """Pipelines that are worth planning, the most promising first, one for each mesh.

    Args:
        stack: of the program.
        machine: where.
        options: as asked for.
        limit_bytes: per device.
        known: the best plan without a pipeline, if there is one.
        asked: whether the user asks for a pipeline.
        schedules: orders of microbatches that the step allows.
    """
    compute_s = None if known is None else known.plan.prediction.compute_s
    found = []
    for pipe in pipelines(stack, machine.n_devices, schedules):
        if asked and not _is_as_asked(pipe, options):
            continue
        guess = estimate(stack, pipe, machine, compute_s)
        if guess is not None and (asked or guess.peak_bytes <= limit_bytes):
            found.append(guess)
    found.sort(key=lambda guess: _rank(guess, limit_bytes))
    best: dict[tuple[int, ...], Estimate] = {}
    for guess in found:
        best.setdefault(tuple(guess.pipe.sizes.values()), guess)
    if known is not None:
        # An estimate may be too high by what a plan must be faster: planning it will tell.
        enough_s = known.plan.prediction.step_s
        return [guess for guess in best.values() if guess.seconds < enough_s][:_MOST_PLANNED]
    return [*best.values()][:_MOST_PLANNED]


def _rank(guess: Estimate, limit_bytes: float) -> tuple[float, float]:
    """Faster is better, but what fits comes first.

    What is asked for is planned though it seems not to fit: an estimate is not sure of that.
    """
    return (max(guess.peak_bytes, limit_bytes), guess.seconds)


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
    forms = _forms(variants, options, machine, limit_bytes, known)
    best, refused, rivals = plain, list[InfeasibleError](), list[Rival]()
    share_s = options.time_limit_s / max(len(forms), 1)
    while forms:
        form = forms.pop(0)
        said = Variant(remat=form.remat, pipeline=form.guess.pipe)
        tell(f"step {said}")
        try:
            found = search(variants.of(said), form.guess.mesh, limit_bytes, share_s)
        except InfeasibleError as error:
            refused.append(error)
            on = str(form.guess.mesh)
            rivals.append(Rival(f"step {said}", on, None, None, "does not fit"))
            forms[:0] = _leaner(form, variants, options)
            continue
        except SearchInterrupted:
            if best is None:
                raise
            best = replace(best, interrupted=True)
            break
        plan = replace(found.plan, remat=form.remat, pipeline=form.guess.pipe)
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


@dataclass(frozen=True)
class _Form:
    """A form of the step with stages.

    Attributes:
        remat: what its layers compute again.
        guess: how they are cut.
    """

    remat: str
    guess: Estimate


def _forms(
    variants: Variants,
    options: Options,
    machine: Machine,
    limit_bytes: float,
    known: Candidate | InfeasibleError | None,
) -> list[_Form]:
    """Those that are worth planning, the most promising first.

    Raises:
        PipelineError: a pipeline is asked for, and cannot be had.
    """
    plain = known if isinstance(known, Candidate) else None
    found = list[_Form]()
    for remat in _remats(options, known):
        try:
            stack = _stack(variants, remat, plain)
            guesses = (
                []
                if stack is None
                else _guesses(variants, remat, stack, options, machine, limit_bytes, known)
            )
            layers = variants.layers(remat) if guesses or known is None else None
        except ValueError as error:  # no batch, or no layers that may be cut
            if known is None:
                raise PipelineError(str(error)) from error
            continue
        if known is None and not guesses:
            assert layers is not None
            if layers.flops and options.schedule == CIRCULAR:
                raise PipelineError(
                    "no schedule circular: layers of several kinds are not taken round several"
                    f" times ({layers.notes[0]}); leave schedule= out, or ask for another"
                )
            raise PipelineError(
                f"no pipeline of {max(layers.counts)} layers for a batch of {layers.batch} on"
                f" {machine.n_devices} devices is as asked for: the number of stages must divide"
                " the devices and the number of microbatches, and all shards' microbatches the"
                " batch"
            )
        found += [_Form(remat, guess) for guess in guesses]
    found.sort(key=lambda form: _rank(form.guess, limit_bytes))
    return found[:_MOST_PLANNED]


def _stack(variants: Variants, remat: str, plain: Candidate | None) -> Stack | None:
    batch = batch_size(variants.plain)
    stack = stack_of(variants.of(Variant(remat=remat)).program, batch)
    unrolled = stack is None and plain is None  # found in seconds
    if unrolled or (stack is not None and stack.loops > _PAIR):  # some may be one loop
        layers = variants.layers(remat)
        stack = stack_of(layers.program, batch)
        return None if stack is None else replace(stack, each=layers.flops)
    return stack


def _guesses(
    variants: Variants,
    remat: str,
    stack: Stack,
    options: Options,
    machine: Machine,
    limit_bytes: float,
    known: Candidate | InfeasibleError | None,
) -> list[Estimate]:
    """With the orders of microbatches that the step allows, if any is promising."""
    plain = known if isinstance(known, Candidate) else None
    orders = [*SCHEDULES] if options.schedule == "auto" else [options.schedule]
    args = (stack, machine, options, limit_bytes, plain)
    guesses = promising(*args, asked=known is None, schedules=orders)
    said = options.schedule != "auto" and known is None  # then it is an error that says why not
    if guesses and ONE_F_ONE_B in orders and not said and variants.layers(remat).no_1f1b:
        orders.remove(ONE_F_ONE_B)
        guesses = promising(*args, asked=known is None, schedules=orders)
    return guesses


def _leaner(form: _Form, variants: Variants, options: Options) -> list[_Form]:
    """The next form that holds less than one that does not fit, if there is one."""
    pipe = form.guess.pipe
    one_by_one = replace(pipe, schedule=ONE_F_ONE_B, chunks=1, dealt=False)
    if (
        options.schedule == "auto"
        and one_by_one.at_once < pipe.at_once
        and not variants.layers(form.remat).no_1f1b
    ):
        less = one_by_one
    elif pipe.cast_once and all(n % pipe.stages == 0 for n in variants.layers(form.remat).counts):
        less = replace(pipe, cast_once=False)  # stacks that are filled up are copied anyway
    else:
        return []
    return [replace(form, guess=replace(form.guess, pipe=less))]


def _remats(options: Options, known: Candidate | InfeasibleError | None) -> tuple[str, ...]:
    """The forms of the layers: as asked for, or as in the best plan without stages."""
    if options.remat != "auto":
        return (word(options.remat),)
    if isinstance(known, Candidate):
        return (known.plan.remat,)
    # Nothing fits, or it is not known what does: what needs least memory may.
    return (AS_WRITTEN, "full")


def _is_better(found: Candidate, best: Candidate) -> bool:
    """Whether a pipeline beats another, or noticeably what has none."""
    worth = 1.0 if best.plan.pipeline is not None else 1 - _WORTH
    return found.plan.prediction.step_s < best.plan.prediction.step_s * worth


def _rival(loser: Candidate) -> Rival:
    plan = loser.plan
    form = Variant(plan.microbatches, plan.remat, plan.pipeline)
    p = plan.prediction
    return Rival(f"step {form}", str(plan.mesh), p.step_s, p.peak_bytes)
