"""Answers of a low peak, and a bound on every peak: times weighed by how full they are.

For any weights of the times that sum to one, an answer's average use is no more than its peak; so
what the average is at least, over all answers, bounds every peak. An average is a sum of costs of
options and of pairs, for which messages (`trws.py`) find a bound and an answer: whole flows change
their layout together, where descending by one variable at a time waits for a neighbour to go first.

All times weigh the same at first, and none ever weighs nothing: what is not alive when memory is
fullest is kept small as well, or the peak would only move there. Then weights grow by a factor
where an answer is fuller (Arora, Hazan, Kale, "The multiplicative weights update method", Theory
of Computing 8, 2012), which is Lagrange's bound climbing towards its top.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from autoshard.search.arrays import arrays
from autoshard.search.problem import Problem
from autoshard.search.trws import Messages

# Rounds at most, and without a better answer: bounds on work, whatever the machine's speed.
_ROUNDS, _PATIENCE = 40, 15
# The first round multiplies the weight of an empty time by exp(-this) against the fullest's; later
# rounds take smaller steps.
_STEP = 3.0
# This part of the weight is always spread over all times.
_SPREAD = 0.01
# Weighed sums of bytes are wrong by less than this fraction.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Level:
    """An answer, and what no answer's peak is below."""

    choice: tuple[int, ...]
    bound_bytes: float


def level(problem: Problem, *, deadline: float, tolerance: float) -> Level:
    """Weigh, sweep and read off an answer, over and over.

    Args:
        problem: its pairs and variables must cost nothing; its limit is ignored.
        deadline: `time.monotonic()` at which to stop; one round is always made.
        tolerance: relative distance of the peak from the bound at which to stop.

    Returns:
        The answer of the lowest peak found, and the highest bound.
    """
    flat = arrays(problem.with_limit(0.0))
    always_bytes = -flat.free_bytes
    times = len(always_bytes)
    bound = problem.unavoidable_bytes()
    if not times:
        return Level((0,) * len(problem.variables), bound)
    graph = flat.graph._replace(table=flat.graph.table.copy())
    messages = Messages(graph, _ROUNDS)
    steps, weight = np.zeros(times), np.full(times, 1.0 / times)
    best, least, rested = (0,) * len(problem.variables), np.inf, 0
    for k in range(_ROUNDS):
        unary = flat.priced_unary(weight)
        graph.table[:] = flat.priced_table(weight)
        average = messages.sweep(unary) + float(weight @ always_bytes)
        bound = max(bound, average * (1 - _ROUNDING))
        choice = messages.decode(unary)
        used = flat.used_bytes(choice) + always_bytes
        peak = float(used.max())
        rested = 0 if peak < least else rested + 1
        if peak < least:
            best, least = tuple(choice.tolist()), peak
        done = least <= bound * (1 + tolerance) or rested >= _PATIENCE
        if done or time.monotonic() > deadline:
            break
        steps += _STEP / np.sqrt(k + 1.0) * (used / peak - 1.0)
        weight = np.exp(steps - steps.max())
        weight = (1 - _SPREAD) * weight / weight.sum() + _SPREAD / times
    return Level(best, bound)
