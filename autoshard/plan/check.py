"""Whether a plan may be used: its parts agree, and it was made for this program and machine."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autoshard.plan.errors import PlanError, StalePlanError
from autoshard.plan.model import MachineKey, Plan, ProgramKey
from autoshard.plan.units import size
from autoshard.program.spec import Spec

_SHOWN = 12


def refuse_mismatch(plan: Plan, program: ProgramKey, machine: MachineKey) -> None:
    """Refuse a plan that was made for something else.

    Raises:
        StalePlanError: lists exactly the parts that differ, the plan's value first.
    """
    differences = (*_program(plan.program, program), *_machine(plan.machine, machine))
    if not differences:
        return
    shown = "".join(f"\n  {line}" for line in differences[:_SHOWN])
    if len(differences) > _SHOWN:
        shown += f"\n  ... and {len(differences) - _SHOWN} more"
    raise StalePlanError(
        f"the plan was not made for this use of {program.name} on {machine.name}:{shown}"
        "\nPlan again, or use the inputs, function and machine it was made for.",
        differences,
    )


def _program(planned: ProgramKey, now: ProgramKey) -> Iterator[str]:
    before, after = dict(planned.inputs), dict(now.inputs)
    inputs_differ = False
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) == after.get(path):
            continue
        inputs_differ = True
        if path not in after:
            yield f"input removed: {path} ({before[path]})"
        elif path not in before:
            yield f"input added: {path} ({after[path]})"
        else:
            yield f"input changed: {path}: {before[path]} -> {after[path]}"
    if not inputs_differ and planned.inputs != now.inputs:
        inputs_differ = True
        yield "the inputs are the same, in another order"
    # Other inputs are another fingerprint too; only without them does it speak of the code.
    if planned.fingerprint != now.fingerprint and not inputs_differ:
        yield (
            "the function's code changed: fingerprint"
            f" {planned.fingerprint[:12]} -> {now.fingerprint[:12]}"
        )


def _machine(planned: MachineKey, now: MachineKey) -> Iterator[str]:
    if planned.name != now.name:
        yield f"machine: {planned.name} -> {now.name}"
    if planned.chip != now.chip:
        yield f"chip: {planned.chip} -> {now.chip}"
    if planned.n_devices != now.n_devices:
        yield f"device count: {planned.n_devices} -> {now.n_devices}"
    if now.memory_limit_bytes < planned.memory_limit_bytes:
        yield (
            "memory limit per device:"
            f" {size(planned.memory_limit_bytes)} -> {size(now.memory_limit_bytes)}"
        )


def refuse_inconsistent(plan: Plan, where: str = "<plan>") -> None:
    """Refuse a plan whose parts contradict each other, as after an edit by hand.

    Raises:
        PlanError: names the file, the key, and what it contradicts.
    """
    for key, complaint in _contradictions(plan):
        raise PlanError(f"{where}: key `{key}`: {complaint}; correct it, or plan again")


def _contradictions(plan: Plan) -> Iterator[tuple[str, str]]:
    mesh = plan.mesh
    if plan.microbatches < 1:
        yield "microbatches", f"a step has 1 or more, not {plan.microbatches}"
    if plan.copies < 1:
        yield "copies", f"there are 1 or more, not {plan.copies}"
    if plan.objective not in ("latency", "throughput"):
        yield "objective", f"latency or throughput, not {plan.objective!r}"
    if len(mesh.axis_names) != len(mesh.axis_sizes):
        names, sizes = len(mesh.axis_names), len(mesh.axis_sizes)
        yield "mesh.axis_sizes", f"{sizes} sizes for {names} axis names"
        return
    if len(set(mesh.axis_names)) != len(mesh.axis_names):
        yield "mesh.axis_names", f"an axis is named twice: {', '.join(mesh.axis_names)}"
    if any(axis_size < 1 for axis_size in mesh.axis_sizes):
        yield "mesh.axis_sizes", f"sizes are 1 or more, not {list(mesh.axis_sizes)}"
    devices = math.prod(mesh.axis_sizes)
    if sorted(mesh.device_order) != list(range(devices)):
        yield "mesh.device_order", f"not an order of the mesh's {devices} devices ({mesh})"
    if plan.machine.n_devices < devices * plan.copies:
        each = f"{plan.copies} copies on {devices}" if plan.copies > 1 else f"{devices}"
        yield "mesh", f"{each} devices, and the machine has {plan.machine.n_devices}"
    for key, spec, shape in _specs(plan):
        if spec.rank != len(shape):
            yield key, f"{spec} has {spec.rank} dimensions, the tensor {list(shape)} {len(shape)}"
        for axis in spec.axes:
            if axis not in mesh.axis_names:
                yield key, f"{spec} names axis {axis!r}, and the mesh is {mesh}"


def _specs(plan: Plan) -> Iterator[tuple[str, Spec, tuple[int, ...]]]:
    for name, leaves in (("inputs", plan.inputs), ("outputs", plan.outputs)):
        for i, leaf in enumerate(leaves):
            yield f"{name}[{i}].spec", leaf.spec, leaf.shape
    for i, constraint in enumerate(plan.constraints):
        for j, spec in enumerate(constraint.specs):
            yield f"constraints[{i}].specs[{j}]", spec, constraint.shape
