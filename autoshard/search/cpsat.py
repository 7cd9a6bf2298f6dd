"""CP-SAT as the closing step: the exact answer over the options still in play.

Maths, and where it is built:

    x[i,s] in {0,1}, sum_s x[i,s] = 1                          (_choose)
    y[p,a,b] in {0,1}, sum_b y = x[a], sum_a y = x[b]           (_link): flow form, no big-M
    sum bytes * x + sum bytes * y <= limit  at chosen times     (_limit), added lazily
    minimise sum cost * x + sum cost * y                        (solve)

Only times at which a found answer would overflow become rows; every answer is checked at all
times before it is believed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from autoshard.search.interrupt import stopped_by_ctrl_c
from autoshard.search.problem import Floats, Problem, Usage

# Bytes are counted in units of at least one, and of this fraction of the limit.
_BYTES_RESOLUTION = 2.0**30
# Costs are rounded to this fraction of a known answer's cost: far below what a model can tell.
_COST_RESOLUTION = 1e-7


@dataclass(frozen=True)
class Closed:
    """What CP-SAT found. `bound_s` is valid over the options it was given."""

    choice: tuple[int, ...] | None
    bound_s: float
    optimal: bool
    infeasible: bool


class _Model:
    def __init__(self, problem: Problem, keep: Sequence[Sequence[int]], unit_s: float) -> None:
        self.problem, self.keep, self.unit_s = problem, keep, unit_s
        self.model = cp_model.CpModel()
        self.x: list[dict[int, cp_model.IntVar]] = []
        self.y: list[dict[tuple[int, int], cp_model.IntVar]] = []
        self.terms: list[cp_model.IntVar] = []
        self.weights: list[int] = []
        self.constant = problem.base_cost_s
        self._choose()
        for k in range(len(problem.pairs)):
            self._link(k)
        self.model.minimize(cp_model.LinearExpr.weighted_sum(self.terms, self.weights))

    def _add_cost(self, var: cp_model.IntVar, cost_s: float) -> None:
        weight = round(cost_s / self.unit_s)
        if weight:
            self.terms.append(var)
            self.weights.append(weight)

    def _choose(self) -> None:
        for i, variable in enumerate(self.problem.variables):
            low = float(variable.cost_s[list(self.keep[i])].min())
            self.constant += low
            row: dict[int, cp_model.IntVar] = {}
            for s in self.keep[i]:
                row[s] = self.model.new_bool_var(f"x{i}_{s}")
                self._add_cost(row[s], float(variable.cost_s[s]) - low)
            self.model.add_exactly_one(row.values())
            self.x.append(row)

    def _link(self, k: int) -> None:
        pair = self.problem.pairs[k]
        xa, xb = self.x[pair.a], self.x[pair.b]
        table = pair.cost_s[np.ix_(list(xa), list(xb))]
        low = float(table.min())
        self.constant += low
        y: dict[tuple[int, int], cp_model.IntVar] = {}
        for a in xa:
            for b in xb:
                y[a, b] = self.model.new_bool_var("")
                self._add_cost(y[a, b], float(pair.cost_s[a, b]) - low)
        for a in xa:
            self.model.add(sum(y[a, b] for b in xb) == xa[a])
        for b in xb:
            self.model.add(sum(y[a, b] for a in xa) == xb[b])
        self.y.append(y)

    def limit(self, when: int) -> None:
        """Bytes in use at one time must fit."""
        if math.isinf(self.problem.limit_bytes):
            return
        unit = max(1.0, self.problem.limit_bytes / _BYTES_RESOLUTION)
        terms: list[cp_model.IntVar] = []
        weights: list[int] = []

        def add(var: cp_model.IntVar, size: float) -> None:
            weight = math.ceil(size / unit)
            if weight:
                terms.append(var)
                weights.append(weight)

        for i, variable in enumerate(self.problem.variables):
            size = _at(variable.usage, when)
            if size is not None:
                for s, var in self.x[i].items():
                    add(var, float(size[s]))
        for k, pair in enumerate(self.problem.pairs):
            size = _at(pair.usage, when)
            if size is not None:
                for (a, b), var in self.y[k].items():
                    add(var, float(size[a, b]))
        free = self.problem.limit_bytes
        if self.problem.base_bytes is not None:
            free -= float(self.problem.base_bytes[when])
        # As elsewhere, a hair above the limit (rounding in sums of many terms) still fits.
        bound = math.floor((free + 1e-9 * self.problem.limit_bytes) / unit)
        self.model.add(cp_model.LinearExpr.weighted_sum(terms, weights) <= bound)

    def hint(self, choice: Sequence[int]) -> None:
        self.model.clear_hints()  # type: ignore[no-untyped-call]
        for i, row in enumerate(self.x):
            for s, var in row.items():
                self.model.add_hint(var, int(choice[i] == s))
        for k, y in enumerate(self.y):
            pair = self.problem.pairs[k]
            for (a, b), var in y.items():
                self.model.add_hint(var, int(choice[pair.a] == a and choice[pair.b] == b))


def _at(usage: Sequence[Usage], when: int) -> Floats | None:
    total: Floats | None = None
    for u in usage:
        if u.start <= when <= u.end:
            total = u.size_bytes if total is None else total + u.size_bytes
    return total


class _Better(cp_model.CpSolverSolutionCallback):
    def __init__(self, on_better: Callable[[float], None], constant: float, unit_s: float) -> None:
        super().__init__()
        self.on_better, self.constant, self.unit_s = on_better, constant, unit_s

    def on_solution_callback(self) -> None:
        self.on_better(self.constant + self.objective_value * self.unit_s)


def close(
    problem: Problem,
    keep: Sequence[Sequence[int]],
    *,
    hint: Sequence[int] | None,
    time_limit_s: float,
    seed: int = 0,
    tolerance: float = 1e-4,
    on_better: Callable[[float], None] = lambda _: None,
) -> Closed:
    """Solve over the options in `keep`, adding memory rows until the answer fits everywhere.

    Args:
        problem: the numbers.
        keep: per variable, the options still in play.
        hint: a feasible answer to start from, or None.
        time_limit_s: wall clock for all rounds together.
        seed: makes runs repeatable.
        tolerance: relative gap at which to stop.
        on_better: called with the objective of every better answer, for display.
    """
    deadline = time.monotonic() + time_limit_s
    scale = problem.cost_s(hint) if hint is not None else _rough_scale(problem)
    unit_s = max(scale * _COST_RESOLUTION, 1e-15)
    model = _Model(problem, keep, unit_s)
    rows: set[int] = set()
    if hint is not None:
        model.hint(hint)
        _add_peaks(model, problem, hint, rows)
    bound_s = -math.inf
    while True:
        left = deadline - time.monotonic()
        if left <= 0.05:
            return Closed(None, bound_s, optimal=False, infeasible=False)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = left
        solver.parameters.random_seed = seed
        solver.parameters.num_workers = 2
        solver.parameters.relative_gap_limit = tolerance
        solver.parameters.catch_sigint_signal = False
        watcher = _Better(on_better, model.constant, unit_s)
        with stopped_by_ctrl_c(solver.stop_search):
            status = solver.solve(model.model, watcher)
        if status == cp_model.INFEASIBLE:
            return Closed(None, math.inf, optimal=False, infeasible=True)
        # One unit of rounding per chosen term at most.
        slack = unit_s * (len(model.x) + len(model.y))
        bound_s = max(bound_s, model.constant + solver.best_objective_bound * unit_s - slack)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Closed(None, bound_s, optimal=False, infeasible=False)
        choice = tuple(
            next(s for s, var in row.items() if solver.boolean_value(var)) for row in model.x
        )
        if not _add_violated(model, problem, choice, rows):
            return Closed(choice, bound_s, status == cp_model.OPTIMAL, infeasible=False)
        model.hint(choice)


def _rough_scale(problem: Problem) -> float:
    return max(sum(float(v.cost_s.max(initial=0.0)) for v in problem.variables), 1e-9)


def _add_peaks(
    model: _Model, problem: Problem, choice: Sequence[int], rows: set[int], most: int = 3
) -> None:
    used = problem.usage_bytes(choice)
    for when in np.argsort(-used)[:most]:
        if int(when) not in rows:
            rows.add(int(when))
            model.limit(int(when))


def _add_violated(
    model: _Model, problem: Problem, choice: Sequence[int], rows: set[int], most: int = 6
) -> bool:
    """Add rows at the worst overflows, spread over the program; False when all fits."""
    used = problem.usage_bytes(choice)
    over = np.flatnonzero(used > problem.limit_bytes * (1 + 1e-9))
    if len(over) == 0:
        return False
    added = 0
    for block in np.array_split(over, most):
        if len(block):
            when = int(block[np.argmax(used[block])])
            if when not in rows:
                rows.add(when)
                model.limit(when)
                added += 1
    return added > 0
