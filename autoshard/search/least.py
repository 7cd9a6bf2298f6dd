"""The least memory any layout needs: what to say when nothing fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from autoshard.search.interrupt import stopped_by_ctrl_c
from autoshard.search.problem import Problem, Usage
from autoshard.search.reduce import Keep, reduce

_UNIT_BYTES = 1024.0


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


def least_memory(problem: Problem, keep: Keep | None = None, time_limit_s: float = 10.0) -> Least:
    """The smallest peak over all answers, as far as the time goes; costs are ignored.

    Only options in `keep` are used, if given. Rows for program points are added until the
    answer's true peak is the one the model believes in.
    """
    free = Problem(
        tuple(type(v)(v.cost_s * 0.0, v.usage, v.label) for v in problem.variables),
        tuple(type(p)(p.a, p.b, p.cost_s * 0.0, p.usage) for p in problem.pairs),
        problem.limit_bytes,
        problem.horizon,
    )
    reduced = reduce(free, keep)
    small = reduced.problem
    model = cp_model.CpModel()
    x = [[model.new_bool_var("") for _ in v.cost_s] for v in small.variables]
    for row in x:
        model.add_exactly_one(row)
    y: list[list[tuple[int, int, cp_model.IntVar]]] = []
    for p in small.pairs:
        cells: list[tuple[int, int, cp_model.IntVar]] = []
        if p.usage:
            for a, b in _nonzero(p.usage):
                both = model.new_bool_var("")
                model.add_bool_or([x[p.a][a].negated(), x[p.b][b].negated(), both])
                cells.append((a, b, both))
        y.append(cells)
    peak = model.new_int_var(0, 1 << 50, "peak")
    model.minimize(peak)
    rows: set[int] = set()
    choice = tuple(0 for _ in small.variables)
    per_round = max(time_limit_s / 8, 0.5)
    best, bound = (math.inf, choice), 0.0
    for _ in range(40):
        used = small.usage_bytes(choice)
        if float(used.max()) < best[0]:
            best = (float(used.max()), choice)
        order = [int(t) for t in (-used).argsort()[:4] if int(t) not in rows]
        if not order or (rows and used[order[0]] <= max(used[list(rows)]) * (1 + 1e-6)):
            break
        for when in order[:2]:
            rows.add(when)
            terms, weights = [], []
            for i, v in enumerate(small.variables):
                for u in v.usage:
                    if u.start <= when <= u.end:
                        terms += x[i]
                        weights += [math.ceil(s / _UNIT_BYTES) for s in u.size_bytes]
            for p, cells in zip(small.pairs, y, strict=True):
                for u in p.usage:
                    if u.start <= when <= u.end:
                        terms += [c for _, _, c in cells]
                        weights += [
                            math.ceil(u.size_bytes[a, b] / _UNIT_BYTES) for a, b, _ in cells
                        ]
            model.add(cp_model.LinearExpr.weighted_sum(terms, weights) <= peak)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = per_round
        solver.parameters.num_workers = 2
        solver.parameters.random_seed = 0
        solver.parameters.catch_sigint_signal = False
        with stopped_by_ctrl_c(solver.stop_search):
            status = solver.solve(model)
        # Sizes were rounded up to the unit, each by less than one.
        rounding = _UNIT_BYTES * (len(x) + len(y))
        bound = max(bound, solver.best_objective_bound * _UNIT_BYTES - rounding)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            break
        choice = tuple(
            next(s for s, var in enumerate(row) if solver.boolean_value(var)) for row in x
        )
    return Least(best[0], min(bound, best[0]), reduced.lift(best[1]))


def _nonzero(usage: Sequence[Usage]) -> list[tuple[int, int]]:
    total = sum(u.size_bytes for u in usage)
    return [(int(a), int(b)) for a, b in zip(*total.nonzero(), strict=True)]  # type: ignore[union-attr]
