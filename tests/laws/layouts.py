"""Layouts nobody would choose: any option for every decision, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from autoshard.machine import mesh_from_sizes
from autoshard.plan.model import Certificate, MachineKey, Plan
from autoshard.planning import assemble, machine_of
from autoshard.search.answer import Answer
from autoshard.search.build import Analysis, build_problem
from autoshard.verify.equality import pure_step


def random_plan(
    fn: Callable[..., Any],
    args: Sequence[Any],
    mesh: dict[str, int],
    seed: int,
    only: Sequence[int] | None = None,
) -> Plan:
    """A plan whose every decision was drawn at random.

    Args:
        fn, args: the step.
        mesh: axis sizes.
        seed: of the draw.
        only: decisions to draw, the others stay whole; to shrink a failing plan.
    """
    program = pure_step(fn, args).trace(fn.__name__).program
    machine = machine_of(jax.devices())
    laid = mesh_from_sizes(machine, mesh)
    numbers = build_problem(Analysis(program), machine, laid, float("inf"))
    rng = np.random.default_rng(seed)
    drawn = [int(rng.integers(len(options))) for options in numbers.layouts.options]
    if only is not None:
        drawn = [option if i in only else 0 for i, option in enumerate(drawn)]
    limit = int(machine.default_memory_limit_bytes)
    key = MachineKey(machine.name, machine.chip.name, machine.n_devices, limit)
    certificate = Certificate("feasible", 0.0, 1.0, 0.0)
    return assemble(Answer(numbers, drawn), key, certificate, "random")
