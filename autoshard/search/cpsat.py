"""CP-SAT as the closing step: the exact answer over what is still in play.

Maths, and where it is built:

    x[i,s] in {0,1}, sum_s x[i,s] = 1                          (_choose)
    y[p,a,b] in {0,1}, sum_b y = x[a], sum_a y = x[b]           (_link): flow form, no big-M
    sum bytes * x + sum bytes * y + spare = free, spare >= 0    (_limit), added lazily
    minimise sum cost * x + sum cost * y + sum price * spare    (close)

Costs are those that the dual bound has moved (`dual.Bounds`): none is negative and their sum is
what an answer costs above the bound, so the bound is where the solver starts, and what is cheap by
itself is cheap in all. Times with a price have a row from the start; of the others only those at
which a found answer would overflow get one; every answer is checked at all times before it is
believed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from autoshard.search.arrays import Arrays
from autoshard.search.dual import Bounds, Dual
from autoshard.search.fixing import InPlay, in_play
from autoshard.search.interrupt import stopped_by_ctrl_c
from autoshard.search.problem import Floats, Problem, Usage

# Bytes are counted in units of at least one, and of this fraction of the limit.
_BYTES_RESOLUTION = 2.0**40
# Costs are rounded down to this fraction of what is between bound and ceiling (of the bound where
# there is no ceiling). Small weights solve faster by far; what rounding leaves open is closed in a
# second step, in which only what was rounded off is weighed, this much finer.
_COST_RESOLUTION = 2.0**-24
_FINER = 2**14


@dataclass(frozen=True)
class Closed:
    """What CP-SAT found. `bound_s` is valid over the options it was given."""

    choice: tuple[int, ...] | None
    bound_s: float
    optimal: bool
    infeasible: bool


class _Model:
    def __init__(
        self, problem: Problem, play: InPlay, bounds: Bounds, unit_s: float, room_s: float
    ) -> None:
        self.problem, self.play, self.unit_s, self.room_s = problem, play, unit_s, room_s
        self.bounds = bounds
        self.model = cp_model.CpModel()
        self.x: list[dict[int, cp_model.IntVar]] = []
        self.y: list[dict[tuple[int, int], cp_model.IntVar]] = []
        self.terms: list[cp_model.IntVar] = []
        self.weights: list[int] = []
        self.rests: list[int] = []  # of the weights: what was rounded off, `_FINER` to a unit
        self.unit_bytes = max(1.0, problem.limit_bytes / _BYTES_RESOLUTION)
        self._choose()
        for k in range(len(problem.pairs)):
            self._link(k)

    def _add_cost(self, var: cp_model.IntVar, cost_s: float) -> None:
        if cost_s > 0:
            weight = math.floor(cost_s / self.unit_s)
            self.terms.append(var)
            self.weights.append(weight)
            self.rests.append(math.floor((cost_s / self.unit_s - weight) * _FINER))

    def _choose(self) -> None:
        for i, own in enumerate(self.bounds.unary):
            row: dict[int, cp_model.IntVar] = {}
            for s in self.play.options[i]:
                row[s] = self.model.new_bool_var(f"x{i}_{s}")
                self._add_cost(row[s], float(own[s]))
            self.model.add_exactly_one(row.values())
            self.x.append(row)

    def _link(self, k: int) -> None:
        pair, table = self.problem.pairs[k], self.bounds.tables[k]
        xa, xb = self.x[pair.a], self.x[pair.b]
        y: dict[tuple[int, int], cp_model.IntVar] = {}
        by_a: dict[int, list[cp_model.IntVar]] = {a: [] for a in xa}
        by_b: dict[int, list[cp_model.IntVar]] = {b: [] for b in xb}
        for a, b in zip(*(c.tolist() for c in self.play.cells[k].nonzero()), strict=True):
            y[a, b] = self.model.new_bool_var("")
            self._add_cost(y[a, b], float(table[a, b]))
            by_a[a].append(y[a, b])
            by_b[b].append(y[a, b])
        for side, found in ((xa, by_a), (xb, by_b)):
            for s, var in side.items():
                self.model.add(sum(found[s]) == var)
        self.y.append(y)

    def limit(self, when: int, price: float = 0.0) -> None:
        """Bytes in use at one time must fit; what is left unused has a price per byte."""
        if math.isinf(self.problem.limit_bytes):
            return
        unit = self.unit_bytes
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
        free = self.problem.limit_bytes + self.problem.hair_bytes
        if self.problem.base_bytes is not None:
            free -= float(self.problem.base_bytes[when])
        bound = math.floor(free / unit)
        # Sizes are often multiples of a larger number; small coefficients solve faster.
        common = math.gcd(*weights) or 1
        weights = [w // common for w in weights]
        bound //= common
        price_s = price * unit * common
        weight = math.floor(price_s / self.unit_s)
        used = cp_model.LinearExpr.weighted_sum(terms, weights)
        if weight <= 0:
            self.model.add(used <= bound)
            return
        most = bound
        if math.isfinite(self.room_s):
            most = min(bound, math.ceil(self.room_s / self.unit_s / weight) + 1)
        spare = self.model.new_int_var(0, max(most, 0), "")
        self.model.add(used + spare == bound)
        self._add_cost(spare, price_s)

    def minimize(self) -> None:
        self.model.minimize(cp_model.LinearExpr.weighted_sum(self.terms, self.weights))

    def differ(self, choice: Sequence[int]) -> None:
        """Ask for another answer than this one."""
        self.model.add_bool_or([row[s].negated() for row, s in zip(self.x, choice, strict=True)])

    def minimize_finely(self, proven: int, most: int) -> None:
        """Weigh what was rounded off, among answers whose weights add up to `proven` to `most`."""
        above = self.model.new_int_var(0, max(most - proven, 0), "")
        total = cp_model.LinearExpr.weighted_sum(self.terms, self.weights)
        self.model.add(total == above + proven)
        rest = cp_model.LinearExpr.weighted_sum(self.terms, self.rests)
        self.model.minimize(rest + above * _FINER)

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
    """Passes on every better answer that fits; the solver may be wrong about the last."""

    def __init__(self, rows: list[dict[int, cp_model.IntVar]], take: Callable[..., None]) -> None:
        super().__init__()
        self.rows, self.take = rows, take

    def on_solution_callback(self) -> None:
        self.take(
            [next(s for s, var in row.items() if self.boolean_value(var)) for row in self.rows]
        )


def close(
    problem: Problem,
    keep: Sequence[Sequence[int]] | None = None,
    *,
    hint: Sequence[int] | None,
    time_limit_s: float,
    dual: Dual | None = None,
    ceiling_s: float = math.inf,
    seed: int = 0,
    tolerance: float = 1e-4,
    on_better: Callable[[Sequence[int]], None] = lambda _: None,
) -> Closed:
    """Solve over what is in play, adding memory rows until the answer fits everywhere.

    Args:
        problem: the numbers.
        keep: per variable, the options allowed; all by default.
        hint: a feasible answer to start from, or None.
        time_limit_s: wall clock for all rounds together.
        dual: moved costs of this problem; made here if None.
        ceiling_s: answers that cost as much are of no interest.
        seed: makes runs repeatable.
        tolerance: relative gap at which to stop.
        on_better: called with every better answer that fits, from the solver's thread.

    Returns:
        The best answer found that fits. `infeasible`: nothing is below the ceiling.
    """
    deadline = time.monotonic() + time_limit_s
    if dual is None:
        dual = Dual(problem)
        dual.sweep()
    flat = dual.arrays
    scale = max(abs(dual.slack().bound_s), _rough_scale(flat) * 1e-9, 1e-12)
    if hint is not None:
        scale = max(scale, abs(problem.cost_s(hint)))
    between = ceiling_s - dual.slack().bound_s
    unit_s = (max(between, 1e-6 * scale) if between < scale else scale) * _COST_RESOLUTION
    # Prices in whole units, so that spare bytes cost exactly what the bound took for them.
    unit_price = unit_s / max(1.0, problem.limit_bytes / _BYTES_RESOLUTION)
    dual.set_price(np.floor(dual.price / unit_price) * unit_price)
    bounds = dual.slack()
    play = in_play(problem, bounds, ceiling_s, hint)
    if keep is not None:
        play = _within(problem, play, keep)
    if not play.possible:
        return Closed(None, ceiling_s, optimal=False, infeasible=True)
    model = _Model(problem, play, bounds, unit_s, ceiling_s - bounds.bound_s)
    rows: set[int] = set()
    for when, price in zip(dual.times, dual.price.tolist(), strict=True):
        if price > 0:
            rows.add(when)
            model.limit(when, price)
    if hint is not None:
        model.hint(hint)
        _add_peaks(model, flat, hint, rows)
    model.minimize()
    best, best_s = hint, math.inf if hint is None else problem.cost_s(hint)
    # The solver's objective is in units of `step_s` above `floor_s`.
    bound_s = floor_s = bounds.bound_s
    step_s, fine = unit_s, False

    def take(choice: Sequence[int]) -> None:
        nonlocal best, best_s
        array = np.asarray(choice, dtype=np.int64)
        cost = flat.cost_s(array)
        if cost < best_s and flat.fits(flat.used_bytes(array)):
            best, best_s = choice, cost
            on_better(choice)

    def closed(*, optimal: bool = False, infeasible: bool = False) -> Closed:
        found = None if best is None else tuple(int(s) for s in best)
        return Closed(found, bound_s, optimal, infeasible)

    while True:
        left = deadline - time.monotonic()
        if left <= 0.05:
            return closed(optimal=fine)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = left
        solver.parameters.random_seed = seed
        solver.parameters.num_workers = 2
        # The gap is asked of the whole cost, the solver knows what is above the bound.
        solver.parameters.absolute_gap_limit = tolerance * scale / step_s
        solver.parameters.relative_gap_limit = 0.0
        solver.parameters.catch_sigint_signal = False
        with stopped_by_ctrl_c(solver.stop_search):
            status = solver.solve(model.model, _Better(model.x, take))
        if status == cp_model.INFEASIBLE:
            bound_s = max(bound_s, min(ceiling_s, best_s))
            return closed(optimal=best is not None, infeasible=best is None)
        # Weights were rounded down, so the bound stands.
        proven = max(solver.best_objective_bound, 0.0)
        bound_s = max(bound_s, floor_s + proven * step_s)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return closed(optimal=fine)
        choice = tuple(
            next(s for s, var in row.items() if solver.boolean_value(var)) for row in model.x
        )
        take(choice)
        if _add_violated(model, flat, choice, rows):
            model.hint(choice)
            continue
        if fine or status != cp_model.OPTIMAL or best_s - bound_s <= tolerance * scale:
            return closed(optimal=fine or status == cp_model.OPTIMAL)
        fine, least = True, math.ceil(proven - 1e-6)
        model.minimize_finely(least, math.ceil((best_s - floor_s) / unit_s))
        floor_s, step_s = floor_s + least * unit_s, unit_s / _FINER
        if best is not None:
            model.hint(best)


def _within(problem: Problem, play: InPlay, keep: Sequence[Sequence[int]]) -> InPlay:
    options = [sorted(set(mine) & set(k)) for mine, k in zip(play.options, keep, strict=True)]
    cells = []
    for p, cell in zip(problem.pairs, play.cells, strict=True):
        may = np.zeros_like(cell)
        may[np.ix_(options[p.a], options[p.b])] = True
        cells.append(cell & may)
    return InPlay(options, tuple(cells))


def _rough_scale(flat: Arrays) -> float:
    return float(flat.unary.max(initial=0.0)) + float(flat.graph.table.max(initial=0.0))


def _add_peaks(
    model: _Model, flat: Arrays, choice: Sequence[int], rows: set[int], most: int = 3
) -> None:
    spare = flat.free_bytes - flat.used_bytes(np.asarray(choice, dtype=np.int64))
    for when in np.argsort(spare)[:most].tolist():
        if when not in rows:
            rows.add(when)
            model.limit(when)


def _add_violated(
    model: _Model, flat: Arrays, choice: Sequence[int], rows: set[int], most: int = 6
) -> bool:
    """Add rows at the worst overflows, spread over the program; False when all fits."""
    used = flat.used_bytes(np.asarray(choice, dtype=np.int64))
    if flat.fits(used):
        return False
    excess = used - flat.free_bytes
    added = 0
    for block in np.array_split(np.flatnonzero(excess > flat.hair_bytes), most):
        if len(block):
            when = int(block[np.argmax(excess[block])])
            if when not in rows:
                rows.add(when)
                model.limit(when)
                added += 1
    return added > 0
