"""From a published run to our cost model's step time and peak memory for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from autoshard.errors import AutoshardError, PipelineError
from autoshard.machine.meshes import mesh_from_sizes
from autoshard.machine.model import Machine, Overlap
from autoshard.program.ir import Program
from autoshard.search.answer import Answer
from autoshard.search.build import Analysis, build_problem
from autoshard.search.solve import solve
from autoshard.trace.function import Traced, trace
from autoshard.trace.pipeline.layers import Layers, layers_of
from autoshard.trace.pipeline.step import pipelined
from autoshard.trace.signature import signature
from benchmarks.published import decoder, training
from benchmarks.published.frameworks import (
    Framework,
    UnknownFramework,
    compute_dtype,
    framework_of,
    kernel_rate,
    remat_of,
)
from benchmarks.published.hardware import UnknownMachine, chip_of, machine_of
from benchmarks.published.launches import launches
from benchmarks.published.layouts import allowed, pipeline_sizes, stage
from benchmarks.published.outside import added_up_s, between_s, unseen_s
from benchmarks.published.rows import Layout, Row
from benchmarks.published.stages import Stages, stages_of
from benchmarks.published.sums import hidden_s, sums_of

# Layouts are given, so memory is a result and no limit.
_NO_LIMIT_BYTES = 1e15
_SWEEPS = 40
# Some parts of a step wait for the process and others for the device. Parts whose ratios spread
# around the step's add up to more than the longer of both; a norm of this order stands for that.
# Orders 3 to 5 do equally well on the rows that are fitted on.
_EVENNESS = 4
# Kinds of models that `decoder.py` builds, and what trains them. The second is GShard's as Alpa
# runs it (`experts.py`), its hidden size and optimizer those of Alpa's `benchmark_one_case_moe.py`.
_MIXED = "moe (every other layer)"
_KINDS = {"dense": "adam", _MIXED: "adafactor"}


class Unsupported(Exception):
    """A row that cannot be expressed, and why."""


@dataclass(frozen=True)
class Case:
    """A run in our terms: equal cases have equal predictions on equal machines."""

    config: decoder.Config
    recipe: training.Recipe
    layout: Layout
    stages: Stages | None = None


@dataclass(frozen=True)
class Efficiency:
    """The two fitted numbers of a chip family: see `fit.py`.

    Attributes:
        memory: what kernels reach of the memory rate that the catalogue says can be reached.
        launch_s: for which a Python process is busy launching one kernel.
    """

    memory: float = 1.0
    launch_s: float = 0.0


@dataclass(frozen=True)
class Predicted:
    """What the cost model says.

    Attributes:
        device_s: of one step on the devices.
        launched_s: before which a Python process has not launched all kernels; 0 if compiled.
        peak_bytes: on one device.
    """

    device_s: float
    launched_s: float
    peak_bytes: float

    @property
    def step_s(self) -> float:
        """The longer of the two, and more where they are alike: see `_EVENNESS`."""
        one, other = self.device_s, self.launched_s
        longer = max(one, other)
        return float(longer * (1 + (min(one, other) / longer) ** _EVENNESS) ** (1 / _EVENNESS))


def case_of(row: Row) -> Case:
    """A row in our terms.

    Raises:
        Unsupported: with the reason.
    """
    layout, model = row.layout, row.model
    wanted = ["kind", "layers", "d_model", "n_heads", "seq"]
    if model["kind"] == _MIXED:
        wanted += ["experts", "expert_group_size"]
    missing = [k for k in wanted if not model.get(k)]
    missing += [] if row.global_batch else ["global_batch"]
    if missing:
        raise Unsupported(f"the source does not say {', '.join(missing)}")
    if model["kind"] not in _KINDS:
        raise Unsupported(f"model kind {model['kind']} is not built here")
    if layout is None:
        raise Unsupported("the source does not say the layout, or a compiler chose it")
    pipe = row.pipe or 1
    stated = layout.data * layout.fsdp * layout.tensor * layout.context * pipe
    if stated != row.chips:
        raise Unsupported(f"the stated sizes make {stated} devices of {row.chips}")
    for name in ("context", "expert"):
        if getattr(layout, name) > 1:
            raise Unsupported(f"{name} dimension not built here yet")
    if pipe > 1 and stage(layout) > 1:
        raise Unsupported("gradients or parameters in shards between pipeline stages")
    if row.offload or "offload" in row.remat:
        raise Unsupported("activations offloaded to the host are not modelled")
    try:
        framework = framework_of(row)
        remat = remat_of(row, framework)
    except (UnknownFramework, ValueError) as error:
        raise Unsupported(str(error)) from error
    recipe = _recipe(row, framework)
    config = _config(row, framework, remat, recipe)
    if layout.sequence_parallel is None:
        layout = replace(layout, sequence_parallel=framework.sequence_parallel)
    if pipe == 1:
        return Case(config, recipe, layout)
    stages = _stages(row, framework, config, recipe)
    config = replace(config, layers=stages.layers * pipe)
    return Case(config, recipe, layout, stages)


def _recipe(row: Row, framework: Framework) -> training.Recipe:
    layout = row.layout
    assert layout is not None
    assert row.global_batch is not None
    replicas = layout.data * layout.fsdp
    each = row.global_batch / replicas
    of_one = min(row.microbatch or each / (row.microbatches or 1), each)
    microbatches = each / of_one
    if microbatches != int(microbatches) or of_one != int(of_one):
        raise Unsupported(
            f"{row.global_batch} sequences do not divide into {replicas} replicas of {of_one}"
        )
    dtype = compute_dtype(row)
    half = "bfloat16" if dtype.startswith("float8") else dtype
    local = framework.local_sums and layout.fsdp == 1 and layout.zero < 2

    def named(choice: str) -> str:
        return half if choice == "compute" else choice

    return training.Recipe(
        microbatches=int(microbatches),
        replicas=replicas if local else 1,
        microbatch=int(of_one) * replicas,
        param_dtype=named(framework.param_dtype),
        master=framework.master and half != "float32",
        compute_dtype=half,
        grad_dtype=named(framework.grad_dtype),
        optimizer=_KINDS[row.model["kind"]],
    )


def _stages(
    row: Row, framework: Framework, config: decoder.Config, recipe: training.Recipe
) -> Stages:
    layout, pipe = row.layout, row.pipe
    assert layout is not None
    assert pipe is not None
    if pipe > config.layers:
        raise Unsupported(f"{config.layers} layers are fewer than {pipe} stages")
    sizes = {
        "stages": pipe,
        "microbatches": recipe.microbatches,
        "data": layout.data,
        "tensor": layout.tensor,
    }
    return stages_of(
        framework.cut,
        config.layers,
        decoder.layer_weights(config),
        config.vocab * config.embed,
        sizes,
        schedule=framework.schedule if row.chunks == 1 else "circular",
        chunks=row.chunks,
    )


def _config(row: Row, framework: Framework, remat: str, recipe: training.Recipe) -> decoder.Config:
    model, layout = row.model, row.layout
    assert layout is not None
    heads = model["n_heads"]
    vocab = model["vocab"] or _VOCAB
    multiple = framework.pad_vocab * layout.tensor
    gated = bool(model["gated_mlp"])
    dtype = compute_dtype(row)
    mixed, tokens = model["kind"] == _MIXED, recipe.microbatch * model["seq"]
    return decoder.Config(
        layers=model["layers"],
        embed=model["d_model"],
        heads=heads,
        kv_heads=model["n_kv_heads"] or heads,
        head_dim=model["head_dim"] or model["d_model"] // heads,
        hidden=model["d_ff"] or _hidden(model["d_model"], gated, mixed),
        vocab=-(-vocab // multiple) * multiple,
        seq=model["seq"],
        gated=gated,
        tied=model.get("tied_embeddings", framework.tied),
        learned_positions=framework.learned_positions,
        compute_dtype=dtype,
        flash=bool(framework.flash),
        flash_rate=_flash_rate(row, framework),
        causal_kernel=framework.causal_kernel,
        softmax_dtype=dtype if framework.softmax_dtype == "compute" else framework.softmax_dtype,
        fused=not framework.eager,
        dropout=framework.dropout,
        remat=remat,
        remat_last=framework.eager and remat == "full",
        experts=model["experts"] if mixed else 0,
        expert_group=min(model["expert_group_size"], tokens) if mixed else 0,
    )


def _flash_rate(row: Row, framework: Framework) -> float:
    """Of the attention kernel, over the rate of large matmuls."""
    if not framework.flash:
        return 1.0
    try:
        efficiency = machine_of(row).chip.matmul_efficiency
    except AutoshardError as error:
        raise Unsupported(str(error)) from error
    return kernel_rate(framework, family_of(row)) / efficiency


_VOCAB = 51200  # GPT-2's 50257 padded as Megatron does (Narayanan et al., table 1)


def _hidden(width: int, gated: bool, mixed: bool) -> int:
    """4 d, or what has as many weights with a gate (Shazeer, arXiv:2002.05202): 8/3 d.

    Where every other layer has experts, 8 d: see `_KINDS`.
    """
    if mixed:
        return 8 * width
    return -(-8 * width // 3 // 256) * 256 if gated else 4 * width


@lru_cache(maxsize=64)
def _analysis(config: decoder.Config, recipe: training.Recipe) -> Analysis:
    """Of a run's program. All numbers of microbatches share one trace, of two of them."""
    few = min(recipe.microbatches, 2)
    program = _traced(config, replace(recipe, microbatches=few))
    if recipe.microbatches > few:
        program = replace(
            program,
            regions=tuple(
                replace(region, trip_count=recipe.microbatches)
                if region.kind == "scan" and region.parent == 0
                else region
                for region in program.regions
            ),
            _times={},
        )
    return Analysis(program)


def _launched(case: Case) -> Program:
    """Whose kernels a Python process launches: those of one stage, in a pipeline."""
    if case.stages is None:
        return _analysis(case.config, case.recipe).program
    stage = replace(case.config, layers=case.stages.layers)
    passes = replace(case.recipe, microbatches=round(case.stages.passes))
    return _analysis(stage, passes).program


@lru_cache(maxsize=64)
def _pipelined(config: decoder.Config, recipe: training.Recipe, stages: Stages) -> Analysis:
    """Of a run's program with its layers cut into stages."""
    try:
        layers = _layers(config, training.at_once(recipe))
        program = pipelined(layers, stages.pipeline).program
    except PipelineError as error:
        raise Unsupported(str(error)) from error
    ticks = stages.pipeline.ticks
    regions = tuple(
        replace(region, trip_count=stages.passes)
        if region.kind == "scan"
        and program.regions[region.parent].kind == "manual"
        and region.trip_count == ticks
        else region
        for region in program.regions
    )
    return Analysis(replace(program, regions=regions, _times={}))


@lru_cache(maxsize=16)
def _layers(config: decoder.Config, recipe: training.Recipe) -> Layers:
    return layers_of(_trace(config, recipe))


@lru_cache(maxsize=16)
def _traced(config: decoder.Config, recipe: training.Recipe) -> Program:
    return _trace(config, recipe).program


def _trace(config: decoder.Config, recipe: training.Recipe) -> Traced:
    step = training.make_step(partial(decoder.loss, config=config), recipe)
    state = training.state_structs(partial(decoder.structs, config), recipe)
    args = (state, *training.batch_structs(recipe, config.seq))
    sig = signature(args, ["state", "tokens", "targets"])
    return trace(step, sig, name="train_step", donated=frozenset({0}))


def predict(row: Row, case: Case, efficiency: Efficiency) -> Predicted:
    """Step time and peak of a run.

    Args:
        row: the run.
        case: from `case_of`.
        efficiency: from `efficiency_of`.

    Raises:
        Unsupported: its machine or its mesh cannot be had.
    """
    try:
        machine = tuned(machine_of(row), framework_of(row), efficiency)
        mesh = mesh_from_sizes(machine, pipeline_sizes(case.layout, case.stages))
    except (AutoshardError, ValueError) as error:
        raise Unsupported(str(error)) from error
    if case.stages is None:
        analysis = _analysis(case.config, case.recipe)
    else:
        analysis = _pipelined(case.config, case.recipe, case.stages)
    numbers = build_problem(analysis, machine, mesh, _NO_LIMIT_BYTES)
    keep = allowed(numbers, case.layout, case.stages)
    solution = solve(numbers.problem, keep=keep, exact=False, max_sweeps=_SWEEPS)
    if solution.choice is None:
        raise Unsupported("no layout follows the strategy")
    answer = Answer(numbers, solution.choice)
    collectives = answer.collectives()
    found = answer.prediction(collectives)
    sums = sums_of(collectives, mesh, machine.chip, case.recipe)
    hidden = hidden_s(sums, found.compute_s, case.recipe, machine.chip.overlap)
    launched = launches(_launched(case), collectives) if framework_of(row).eager else 0
    outside_s = 0.0
    if case.stages is not None:
        outside_s = between_s(collectives, mesh, case.config, case.recipe.grad_dtype)
        outside_s += unseen_s(answer, collectives, case.stages)
        outside_s -= added_up_s(machine.chip, case.config, case.recipe, case.stages)
    return Predicted(
        device_s=found.step_s - sums.saved_s - hidden - outside_s,
        launched_s=launched * efficiency.launch_s,
        peak_bytes=found.peak_bytes,
    )


def tuned(machine: Machine, framework: Framework, efficiency: Efficiency) -> Machine:
    """A machine as a framework uses it."""
    chip = machine.chip
    return replace(
        machine,
        chip=replace(
            chip,
            memory_efficiency=chip.memory_efficiency * efficiency.memory,
            overlap=chip.overlap if framework.overlap else Overlap(),
        ),
    )


def family_of(row: Row) -> str:
    """Chips that share fitted numbers."""
    return chip_of(row).split("-")[0]


def efficiency_of(row: Row, fitted: Mapping[str, Mapping[str, float]]) -> Efficiency:
    """What was fitted for the row's chip family; the catalogue's numbers where nothing was.

    Raises:
        Unsupported: the chip is not in the catalogue.
    """
    try:
        found = fitted.get(family_of(row), {})
    except UnknownMachine as error:
        raise Unsupported(str(error)) from error
    return Efficiency(found.get("memory", 1.0), found.get("launch_s", 0.0))
