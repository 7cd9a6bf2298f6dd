"""The least memory any layout needs: what to say when nothing fits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from autoshard.search.dual import polish
from autoshard.search.interrupt import stopped_by_ctrl_c
from autoshard.search.level import level
from autoshard.search.problem import Problem, Usage
from autoshard.search.reduce import Keep, reduce

# Bytes are counted in units of at least one, and of this fraction of a known peak.
_RESOLUTION = 2.0**30
# Peaks this close (relative) are as good as equal.
_CLOSE_ENOUGH = 2e-3
# Weighing times goes on until it is closer still.
_VERY_CLOSE = 1e-4
# It, and then it and descending, may take these parts of the time.
_WEIGHING, _DESCENDING = 0.3, 0.5


@dataclass(frozen=True)
class Least:
    """The answer that needs least memory.

    Attributes:
        peak_bytes: its peak.
        bound_bytes: no answer has a lower one.
        choice: the answer.
    """

    peak_bytes: float
    bound_bytes: float
    choice: tuple[int, ...]


def least_memory(
    problem: Problem,
    keep: Keep | None = None,
    time_limit_s: float = 10.0,
    hints: Sequence[Sequence[int]] = (),
) -> Least:
    """The smallest peak over all answers, as far as the time goes; costs are ignored.

    Args:
        problem: the numbers.
        keep: options allowed per variable; all by default.
        time_limit_s: wall clock.
        hints: known answers to start from.
    """
    free = Problem(
        tuple(type(v)(v.cost_s * 0.0, v.usage, v.label) for v in problem.variables),
        tuple(type(p)(p.a, p.b, p.cost_s * 0.0, p.usage) for p in problem.pairs),
        limit_bytes=-1.0,  # nothing fits below this: every peak matters
        horizon=problem.horizon,
        base_bytes=problem.base_bytes,
    )
    reduced = reduce(free, keep)
    small = reduced.problem
    begun = time.monotonic()
    levelled = level(small, deadline=begun + _WEIGHING * time_limit_s, tolerance=_VERY_CLOSE)
    starts = [s for s in map(reduced.lower, hints) if s is not None]
    best = min([levelled.choice, *starts], key=small.peak_bytes)
    bound = levelled.bound_bytes
    if not _met(small.peak_bytes(best), bound):
        whole = (0,) * len(small.variables)
        until = begun + _DESCENDING * time_limit_s
        tried = [_descend(small, start, until) for start in (best, whole)]
        best, proven = _squeeze(
            small, min([best, *tried], key=small.peak_bytes), bound, begun + time_limit_s
        )
        bound = max(bound, proven)
    peak = small.peak_bytes(best)
    return Least(peak, min(bound, peak), reduced.lift(best))


def _met(peak_bytes: float, bound_bytes: float) -> bool:
    """Whether nothing is left to gain."""
    return peak_bytes <= bound_bytes * (1 + _CLOSE_ENOUGH)


def _descend(
    problem: Problem, start: Sequence[int], deadline: float, rounds: int = 60
) -> tuple[int, ...]:
    """A lower peak near an answer: charge for memory at the worst times, over and over."""
    choice = tuple(start)
    best, price = choice, dict[int, float]()
    for _ in range(rounds):
        used = problem.usage_bytes(choice)
        if used.max(initial=0.0) < problem.peak_bytes(best):
            best = choice
        if time.monotonic() > deadline:
            break
        when = int(used.argmax()) if len(used) else 0
        price[when] = price.get(when, 0.0) + 1.0
        choice = polish(problem, choice, price)
    return min(best, choice, key=problem.peak_bytes)


def _squeeze(
    problem: Problem, start: tuple[int, ...], known_bytes: float, deadline: float
) -> tuple[tuple[int, ...], float]:
    """Exactly: minimise the peak, adding a row per program point that turns out to be one.

    Args:
        problem: the numbers.
        start: an answer to improve.
        known_bytes: a bound on every answer's peak.
        deadline: `time.monotonic()` at which to stop.

    Returns:
        (the best answer, a bound on every answer's peak).
    """
    best, least = start, problem.peak_bytes(start)
    if not least:
        return best, 0.0
    unit = max(1.0, least / _RESOLUTION)
    model = cp_model.CpModel()
    x = [[model.new_bool_var("") for _ in v.cost_s] for v in problem.variables]
    for row in x:
        model.add_exactly_one(row)
    y: list[list[tuple[int, int, cp_model.IntVar]]] = []
    for p in problem.pairs:
        cells: list[tuple[int, int, cp_model.IntVar]] = []
        for a, b in _nonzero(p.usage):
            both = model.new_bool_var("")
            model.add_bool_or([x[p.a][a].negated(), x[p.b][b].negated(), both])
            cells.append((a, b, both))
        y.append(cells)
    # Rounding sizes up does not bring any peak below the bound.
    floor = math.floor(known_bytes / unit)
    peak = model.new_int_var(floor, math.ceil(least / unit) + len(x) + len(y) + 1, "peak")
    model.minimize(peak)
    rows: set[int] = set()
    choice, bound = start, 0.0
    while (left := deadline - time.monotonic()) > 0.05:
        if _met(problem.peak_bytes(best), known_bytes):
            break
        used = problem.usage_bytes(choice)
        worst = [int(t) for t in (-used).argsort()[:4] if int(t) not in rows]
        known = max((used[t] for t in rows), default=-1.0)
        if not worst or used[worst[0]] <= known * (1 + 1e-9):
            break
        for when in worst[:2]:
            rows.add(when)
            terms, weights = [], []
            for i, v in enumerate(problem.variables):
                for u in v.usage:
                    if u.start <= when <= u.end:
                        terms += x[i]
                        weights += [math.ceil(s / unit) for s in u.size_bytes]
            for p, cells in zip(problem.pairs, y, strict=True):
                for u in p.usage:
                    if u.start <= when <= u.end:
                        terms += [c for _, _, c in cells]
                        weights += [math.ceil(u.size_bytes[a, b] / unit) for a, b, _ in cells]
            base = 0.0 if problem.base_bytes is None else float(problem.base_bytes[when])
            model.add(
                cp_model.LinearExpr.weighted_sum(terms, weights) + math.ceil(base / unit) <= peak
            )
        model.clear_hints()  # type: ignore[no-untyped-call]
        for row, s in zip(x, best, strict=True):
            for k, var in enumerate(row):
                model.add_hint(var, int(k == s))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = left
        solver.parameters.num_workers = 2
        solver.parameters.random_seed = 0
        solver.parameters.relative_gap_limit = _CLOSE_ENOUGH
        solver.parameters.catch_sigint_signal = False
        with stopped_by_ctrl_c(solver.stop_search):
            status = solver.solve(model)
        # Sizes were rounded up to the unit, each by less than one.
        rounding = unit * (len(x) + len(y))
        bound = max(bound, solver.best_objective_bound * unit - rounding)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            break
        choice = tuple(
            next(s for s, var in enumerate(row) if solver.boolean_value(var)) for row in x
        )
        if problem.peak_bytes(choice) < problem.peak_bytes(best):
            best = choice
    return best, bound


def _nonzero(usage: Sequence[Usage]) -> list[tuple[int, int]]:
    if not usage:
        return []
    total = usage[0].size_bytes
    for u in usage[1:]:
        total = total + u.size_bytes
    return [(int(a), int(b)) for a, b in zip(*total.nonzero(), strict=True)]
