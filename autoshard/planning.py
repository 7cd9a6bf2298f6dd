"""From a traced function to a plan: the machine, the meshes, the search, the value."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from autoshard.copies import most_calls
from autoshard.errors import InfeasibleError, IntentError, UnknownPrimitiveError, warn
from autoshard.execute.shardings import in_machine_order
from autoshard.machine import (
    LogicalMesh,
    Machine,
    MachineError,
    legal_meshes,
    machine_for_devices,
    mesh_from_sizes,
    parse_machine,
)
from autoshard.options import Options, is_sizes
from autoshard.pipelines import is_asked, may_help, with_stages
from autoshard.plan import units
from autoshard.plan.check import refuse_mismatch
from autoshard.plan.errors import PlanError
from autoshard.plan.model import Certificate, MachineKey, MeshPlan, Plan, ProgramKey
from autoshard.program.ir import Program, Role
from autoshard.search.answer import Answer
from autoshard.search.search import search
from autoshard.strategies import STRATEGIES, strategy_of
from autoshard.trace.function import Traced
from autoshard.trace.variants import Variants
from autoshard.variants import Candidate, choose

_THREE_AXES = ("data", "fsdp", "tensor")
# Lines on large values that had to stay whole.
_MOST_WHOLE = 5
# A program is printed in full only up to here; the rest is counted.
_MOST_UNKNOWN = 8


def machine_of(devices: Any) -> Machine:
    """The machine behind the `devices` option: text, devices, or None for all there are.

    Raises:
        MachineError: no such topology or chip.
    """
    if isinstance(devices, str):
        return parse_machine(devices)
    found = in_machine_order(jax.devices() if devices is None else list(devices))
    first = found[0]
    coords = None
    if all(getattr(d, "coords", None) is not None for d in found) and first.platform == "tpu":
        coords = [tuple(d.coords) for d in found]
    # CPU devices of several processes differ in it too; only a TPU's slices are told apart by it.
    slices = [getattr(d, "slice_index", 0) or 0 for d in found] if coords else None
    return machine_for_devices(
        first.platform, first.device_kind, len(found), coords, _memory_of(first), slices
    )


def runs_here(devices: Any) -> bool:
    """Whether the `devices` option names devices of this computer, not just describes some.

    Raises:
        MachineError: no such topology or chip.
    """
    if not isinstance(devices, str):
        return True
    machine = parse_machine(devices)
    platform = machine.chip.platform
    if platform == "cpu":
        return True  # any number of them can be simulated
    return jax.default_backend() == platform and machine_of(None).name == machine.name


def _memory_of(device: Any) -> int | None:
    try:
        stats = device.memory_stats()
    except Exception:  # a device of a topology has no memory to ask about
        return None
    limit = (stats or {}).get("bytes_limit")
    return int(limit) if limit else None


def meshes_of(mesh: Any, machine: Machine) -> Sequence[LogicalMesh]:
    """Candidate meshes for the `mesh` option.

    Raises:
        MachineError: sizes that do not multiply to the device count, or cannot be laid out.
        TypeError: not a mesh.
    """
    if isinstance(mesh, str) and mesh == "auto":
        return legal_meshes(machine)
    if isinstance(mesh, Mesh):
        sizes = {str(name): int(size) for name, size in mesh.shape.items()}
        laid = mesh_from_sizes(machine, sizes)
        order = in_machine_order(list(mesh.devices.flat))
        index = {id(d): i for i, d in enumerate(order)}
        # The user's own device order is kept, whatever we would have chosen.
        return [LogicalMesh(laid.axes, tuple(index[id(d)] for d in mesh.devices.flat))]
    if is_sizes(mesh):
        return [mesh_from_sizes(machine, {str(k): int(v) for k, v in mesh.items()})]
    raise TypeError(
        f'mesh={mesh!r} is no mesh: pass "auto", axis sizes such as {{"data": 4, "tensor": 2}},'
        " or a jax.sharding.Mesh"
    )


def _finer_meshes(program: Program, options: Options, machine: Machine) -> Sequence[LogicalMesh]:
    """Candidates of three axes, all larger than 1, where nothing says what the mesh shall be."""
    free = isinstance(options.mesh, str) and options.strategy == "auto"
    if program.mesh_sizes or not free:
        return ()
    return [m for m in legal_meshes(machine, _THREE_AXES) if all(a.size > 1 for a in m.axes)]


def _meshes_for(program: Program, mesh: Any, machine: Machine) -> Sequence[LogicalMesh]:
    """Candidate meshes; that of the user's own constraints, where there are some.

    Raises:
        IntentError: that mesh cannot be laid on the machine.
        MachineError, TypeError: as `meshes_of`.
    """
    own = dict(program.mesh_sizes)
    if not own or not isinstance(mesh, str):
        return meshes_of(mesh, machine)
    try:
        return meshes_of(own, machine)
    except MachineError as error:
        said = " x ".join(f"{name} {size}" for name, size in own.items())
        raise IntentError(
            f"sharding constraints or shard_map inside {program.name!r} are on a mesh {said}:"
            f" {error}"
        ) from error


def program_key(program: Program) -> ProgramKey:
    """What a plan remembers of its program, to be refused for any other."""
    inputs = tuple((x.path, f"{x.dtype}[{','.join(map(str, x.shape))}]") for x in program.inputs)
    return ProgramKey(program.name, program.fingerprint, inputs)


def make_plan(
    variants: Variants,
    options: Options,
    tell: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Plan a traced function as the options say, or take the plan they name.

    Raises:
        InfeasibleError: nothing fits.
        MicrobatchError: the step cannot be taken in the microbatches asked for.
        UnknownPrimitiveError: strict mode, and a primitive has no rule.
        StalePlanError: the plan given is for another program or machine.
        MachineError, ValueError, TypeError: bad options.
    """
    program = variants.plain.program
    mesh, devices = options.mesh, options.devices
    if isinstance(mesh, Mesh):
        mesh, devices = _own_mesh(mesh, devices)
    machine = machine_of(devices)
    limit = options.memory_bytes or machine.default_memory_limit_bytes
    key = MachineKey(machine.name, machine.chip.name, machine.n_devices, int(limit))
    unknown = unknown_primitives(program)
    if options.strict and unknown:
        raise UnknownPrimitiveError(
            "strict mode: no sharding rule for\n"
            + "\n".join(f"  {line}" for line in unknown)
            + "\nWithout strict=True these ops run whole on every device, and the plan says so."
        )
    given = given_plan(options)
    if given is not None:
        refuse_mismatch(given, program_key(program), key)
        return given
    if options.objective == "latency":
        return _plan_on(variants, options, mesh, machine, key, tell)

    def one_copy(part: Machine, seconds: float) -> Plan:
        less = replace(options, time_limit_s=seconds)
        own = replace(key, name=part.name, n_devices=part.n_devices)
        return _plan_on(variants, less, mesh, part, own, tell)

    return most_calls(program, machine, key, options, one_copy, tell)


def _plan_on(
    variants: Variants,
    options: Options,
    mesh: Any,
    machine: Machine,
    key: MachineKey,
    tell: Callable[[str], None],
) -> Plan:
    """One call as soon as may be: from the cache, or searched.

    Args:
        variants: of the step.
        options: as asked for; `mesh` and the machine are given apart.
        mesh: the option.
        machine: that the call has all of.
        key: of it.
        tell: receives a line of text as things improve.
    """
    program = variants.plain.program
    asked = options.strategy
    strategies = STRATEGIES if asked == "auto" else {asked: strategy_of(asked)}
    staged, may_be_staged = is_asked(options, program), may_help(options, program)
    meshes = () if staged else _meshes_for(program, mesh, machine)
    finer = _finer_meshes(program, options, machine)
    stored = _cache_file(program, key, (machine, meshes, finer), options)
    if stored is not None and stored.exists():
        cached = _cached(stored, program, key)
        if cached is not None:
            tell(f"plan found in {stored}")
            return cached

    def searched(
        traced: Traced, limit_bytes: float, time_limit_s: float, only: LogicalMesh | None = None
    ) -> Candidate:
        found = search(
            traced.program,
            machine,
            meshes if only is None else [only],
            limit_bytes,
            finer=finer if only is None else (),
            strategies=strategies,
            strategy=asked,
            intents=tuple(options.intent),
            time_limit_s=time_limit_s,
            seed=options.seed,
            tell=tell,
        )
        made = assemble(found.answer, key, found.certificate, found.strategy)
        made = replace(made, program=program_key(program), notes=(*made.notes, *traced.notes))
        return Candidate(made, found.interrupted)

    def on_mesh(traced: Traced, on: LogicalMesh, limit_bytes: float, seconds: float) -> Candidate:
        return searched(traced, limit_bytes, seconds, on)

    limit = float(key.memory_limit_bytes)
    known: Candidate | InfeasibleError | None = None
    if not staged:
        try:
            known = choose(variants, options, limit, searched, tell)
        except InfeasibleError as error:
            if not may_be_staged:
                raise
            known = error
    chosen = known
    if staged or may_be_staged:
        chosen = with_stages(variants, options, machine, limit, known, on_mesh, tell)
    assert isinstance(chosen, Candidate)
    plan = chosen.plan
    # What Ctrl-C cut short is used now, and searched for again the next time.
    if stored is not None and not chosen.interrupted:
        _keep(plan, stored)
    return plan


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, as far as it was on.

    Tracing and planning make millions of small objects that live until they are done; looking
    through all of them again and again takes a seventh of the time, and finds nothing.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def given_plan(options: Options) -> Plan | None:
    """The plan that the options name, loaded if it is a file.

    Raises:
        PlanError: the file cannot be read.
    """
    given = options.plan
    return given if given is None or isinstance(given, Plan) else Plan.load(given)


def _own_mesh(mesh: Mesh, devices: Any) -> tuple[Any, Any]:
    """A user's JAX mesh as the `mesh` and `devices` options.

    Raises:
        ValueError: other devices than the mesh's were asked for.
    """
    own = list(mesh.devices.flat)
    if devices is None:
        return mesh, own
    if isinstance(devices, str):
        # Planned for another machine: of the mesh only names and sizes can mean something there.
        return {str(name): int(size) for name, size in mesh.shape.items()}, devices
    if set(devices) != set(own):
        raise ValueError(
            f"devices= names {len(set(devices))} devices, mesh= holds {len(own)}, and they are not"
            " the same ones; give one of the two"
        )
    return mesh, own


def assemble(answer: Answer, machine: MachineKey, certificate: Certificate, strategy: str) -> Plan:
    """An answer of the search, whoever chose it, as a plan.

    Args:
        answer: an option for every decision.
        machine: what it was priced for.
        certificate: what is known about how good it is.
        strategy: whose answer it is.
    """
    program, laid = answer.program, answer.numbers.mesh
    collectives = answer.collectives()
    return Plan(
        program=program_key(program),
        machine=machine,
        mesh=MeshPlan(
            tuple(a.name for a in laid.axes),
            tuple(a.size for a in laid.axes),
            laid.device_order,
            tuple(a.link for a in laid.axes),
        ),
        inputs=answer.inputs(),
        outputs=answer.outputs(),
        constraints=answer.constraints(),
        collectives=collectives,
        prediction=answer.prediction(collectives),
        certificate=certificate,
        strategy=strategy,
        notes=(
            *(f"no sharding rule, kept whole: {line}" for line in unknown_primitives(program)),
            *_manual(program, answer.numbers.mesh.sizes),
            *_undivided(answer),
            *_whole_inside(answer),
        ),
        versions=versions(),
    )


def _manual(program: Program, sizes: Mapping[str, int]) -> Iterator[str]:
    """One line per place where users lay out code themselves."""
    laid_out = (op for op in program.ops if op.manual is not None)
    for op in {op.source: op for op in laid_out if op.kind == "shard_map"}.values():
        assert op.manual is not None
        at = f"{op.kind} at {op.source}"
        if op.manual.taken.is_for(sizes):
            yield f"{at} is laid out as written; what it computes and sends inside is not predicted"
        else:
            mesh = " x ".join(f"{name} {size}" for name, size in op.manual.taken.mesh_sizes)
            yield f"{at} is written for a mesh {mesh}: what it reads and makes is kept whole"


def _undivided(answer: Answer) -> Iterator[str]:
    """One line per shape of data that stays whole because no axis divides its first dimension."""
    axes = [axis for axis in answer.numbers.mesh.axes if axis.size > 1]
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for leaf in answer.inputs():
        if leaf.role == Role.DATA.value and leaf.shape and leaf.spec.is_replicated:
            alike.setdefault((leaf.dtype, leaf.shape), []).append(leaf.path)
    for (dtype, shape), paths in alike.items():
        if not axes or any(shape[0] % axis.size == 0 for axis in axes):
            continue
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield (
            f"{paths[0]}{more} ({dtype}[{','.join(map(str, shape))}]) is whole on every device:"
            f" its first dimension, {shape[0]}, does not divide by"
            f" {' or '.join(f'{axis.name} {axis.size}' for axis in axes)}"
        )


def _whole_inside(answer: Answer) -> Iterator[str]:
    """One line per place that makes something large which had to stay whole."""
    program, seen = answer.program, set[tuple[str, str]]()
    for tensor, op, why in answer.whole_inside():
        if (op.source, why) in seen:
            continue
        seen.add((op.source, why))
        if len(seen) > _MOST_WHOLE:
            continue
        made = program.tensors[tensor]
        what = f"{made.dtype}[{','.join(map(str, made.shape))}] of {op.kind}"
        at = f" at {op.source}" if op.source else ""
        yield f"{what}{at} is whole on every device ({units.size(made.size_bytes)}): {why}"
    if len(seen) > _MOST_WHOLE:
        yield f"... and {len(seen) - _MOST_WHOLE} more places make values that are whole"


def unknown_primitives(program: Program) -> list[str]:
    """One line per primitive without a rule: name, how often, first user line."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for op in program.unknown_ops:
        count[op.kind] = count.get(op.kind, 0) + 1
        first.setdefault(op.kind, op.source)
    lines = [
        f"{kind}"
        + (f" ({n} times)" if n > 1 else "")
        + (f" at {first[kind]}" if first[kind] else "")
        for kind, n in sorted(count.items())
    ]
    if len(lines) > _MOST_UNKNOWN:
        lines = [*lines[:_MOST_UNKNOWN], f"... and {len(lines) - _MOST_UNKNOWN} more primitives"]
    return lines


def versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages a plan depends on."""
    out: list[tuple[str, str]] = []
    for name in ("autoshard", "jax", "jaxlib", "ortools"):
        try:
            out.append((name, version(name)))
        except PackageNotFoundError:
            out.append((name, "unknown"))
    return tuple(out)


def _cache_file(
    program: Program, key: MachineKey, where: tuple[Any, ...], options: Options
) -> Path | None:
    if options.cache is None:
        return None
    import hashlib

    asked = (
        program_key(program),
        key,
        where,
        options.strategy,
        (options.remat, options.microbatch, options.pipeline, options.schedule),
        tuple(map(str, options.intent)),
        options.seed,
        options.time_limit_s,
        versions(),
    )
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()[:16]
    return Path(os.fspath(options.cache)) / f"{program.name}-{digest}.json"


def _keep(plan: Plan, file: Path) -> None:
    """Store a plan; a directory that cannot be written costs the next run time, nothing else."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        plan.save(file)
    except (OSError, PlanError) as error:
        warn(f"the plan was not kept in {file.parent}: {error}")


def _cached(file: Path, program: Program, key: MachineKey) -> Plan | None:
    """A plan from the cache; a damaged or foreign file is as good as none."""
    try:
        plan = Plan.load(file)
        refuse_mismatch(plan, program_key(program), key)
    except PlanError:
        return None
    return plan
