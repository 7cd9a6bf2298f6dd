"""How many copies of a program to run side by side, where calls per second are what counts.

A program that only answers can run in several copies, each on an equal part of the machine: what
one copy need not send to others it does not wait for. A step whose calls share what they update is
one copy, whatever was asked for, and its plan says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoshard.errors import InfeasibleError
from autoshard.machine import Machine
from autoshard.machine.parts import Parts, counts, equal_parts
from autoshard.options import Options
from autoshard.plan.errors import PlanError
from autoshard.plan.model import MachineKey, Plan, Rival
from autoshard.program.ir import Program
from autoshard.search.examples import shared
from autoshard.search.graph import build_graph

# More copies must be worth it: the cost model is coarser than less than that.
_WORTH = 1e-2

# (machine, seconds the search may take) -> plan of one copy on it.
PlanOn = Callable[[Machine, float], Plan]


def most_calls(
    program: Program,
    machine: Machine,
    key: MachineKey,
    options: Options,
    plan_on: PlanOn,
    tell: Callable[[str], None],
) -> Plan:
    """The plan with most calls per second of the whole machine, of those for any number of copies.

    Args:
        program: as it is written.
        machine: the whole of it.
        key: the same, as plans remember it.
        options: as asked for; `objective` is "throughput".
        plan_on: plans one copy on a machine.
        tell: receives a line of text per number of copies.

    Raises:
        InfeasibleError: one copy on the whole machine does not fit.
    """
    why = _only_one(program, options)
    tried = [1, *([] if why else counts(machine))]
    if not why and len(tried) == 1:
        why = f"{machine.name} cannot be cut into equal parts"
    plans: list[Plan] = []
    too_large = ""
    for n in tried:
        parts = equal_parts(machine, n) if n > 1 else None
        part = machine if parts is None else parts.machine
        tell(f"{n} {'copies' if n > 1 else 'copy'} on {part.name}")
        try:
            plan = plan_on(part, options.time_limit_s / len(tried))
        except InfeasibleError:
            if n == 1:
                raise
            too_large = f"{n} copies do not fit: one needs more than {part.name} has"
            break
        plans.append(replace(plan, machine=key, objective="throughput", copies=n))
    best = plans[0]
    for plan in plans[1:]:
        if plan.calls_per_s > best.calls_per_s * (1 + _WORTH):
            best = plan
    others = tuple(_rival(plan) for plan in plans if plan is not best)
    notes = (
        *best.notes,
        *([f"one copy: {why}"] if why else []),
        *([too_large] if too_large else []),
    )
    certificate = replace(best.certificate, rivals=(*best.certificate.rivals, *others))
    return replace(best, certificate=certificate, notes=notes)


def parts_of(plan: Plan, machine: Machine) -> Parts:
    """Where the copies of a plan run.

    Raises:
        PlanError: the machine cannot be cut into so many parts.
    """
    parts = equal_parts(machine, plan.copies)
    if parts is None:
        raise PlanError(f"{machine.name} cannot be cut into {plan.copies} equal parts")
    return parts


def _only_one(program: Program, options: Options) -> str:
    """Why a program must stay one copy; "" where it need not."""
    if not isinstance(options.mesh, str):
        return "the option mesh lays it out over the whole machine"
    if program.mesh_sizes:
        return "layouts inside it are for a mesh of the whole machine"
    why = shared(build_graph(program))
    return f"copies would have to share something: {why}" if why else ""


def _rival(plan: Plan) -> Rival:
    p = plan.prediction
    remark = f"{plan.calls_per_s:.4g} calls per second"
    name = f"{plan.copies} {'copies' if plan.copies > 1 else 'copy'}"
    return Rival(name, str(plan.mesh), p.step_s, p.peak_bytes, remark)
