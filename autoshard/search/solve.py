"""One problem, solved: reduce, bound, and close with CP-SAT."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.cpsat import close
from autoshard.search.dual import Best, Dual, ascend, polish
from autoshard.search.problem import Problem, gap
from autoshard.search.reduce import Keep, Reduced, reduce

# CP-SAT gets the options that reduced costs leave; beyond this many pair variables it would only
# burn time, and the answer keeps the dual bound's gap.
MOST_PAIRS = 60_000

OnBetter = Callable[[float, float], None]


@dataclass(frozen=True)
class Solution:
    """What was found for one problem.

    Attributes:
        choice: the best feasible answer, None if there is none (yet).
        cost_s, bound_s: its objective, and a bound on every answer's.
        infeasible: proven that nothing fits.
    """

    choice: tuple[int, ...] | None
    cost_s: float
    bound_s: float
    infeasible: bool = False

    @property
    def gap(self) -> float:
        """See `problem.gap`; infinite where there is no answer."""
        return gap(self.cost_s, self.bound_s)


def solve(
    problem: Problem,
    *,
    keep: Keep | None = None,
    hints: Sequence[Sequence[int]] = (),
    cutoff_s: float = float("inf"),
    time_limit_s: float = 10.0,
    tolerance: float = 1e-3,
    seed: int = 0,
    max_sweeps: int = 200,
    exact: bool = True,
    on_better: OnBetter = lambda cost, bound: None,
) -> Solution:
    """Minimise a problem within its memory limit.

    Args:
        problem: the numbers.
        keep: options allowed per variable; all by default.
        hints: known answers; infeasible ones are ignored.
        cutoff_s: answers costing this much or more are of no interest.
        time_limit_s: wall clock.
        tolerance: relative gap at which to stop.
        seed: for repeatable runs.
        max_sweeps: effort of the bounding phase.
        exact: whether CP-SAT may close the rest.
        on_better: called with (cost, bound) as they improve.
    """
    deadline = time.monotonic() + time_limit_s
    reduced = reduce(problem, keep)
    small = reduced.problem
    if reduced.infeasible or small.unavoidable_bytes() > small.limit_bytes * (1 + 1e-9):
        return Solution(None, float("inf"), float("inf"), infeasible=True)
    best = Best(None, float("inf"), float("-inf"))
    for hint in hints:
        lowered = reduced.lower(hint)
        if lowered is not None:
            best.offer(small, lowered)
            best.offer(small, polish(small, lowered, {}))
    if best.choice is not None:
        on_better(best.cost_s, best.bound_s)
    dual = ascend(
        small,
        best,
        deadline=deadline,
        tolerance=tolerance,
        cutoff_s=cutoff_s,
        max_sweeps=max_sweeps,
    )
    on_better(best.cost_s, best.bound_s)
    infeasible = False
    if exact and best.gap() > tolerance and best.bound_s < cutoff_s:
        infeasible = _close(small, dual, best, cutoff_s, deadline, tolerance, seed, on_better)
    choice = reduced.lift(best.choice) if best.choice is not None else None
    return Solution(choice, best.cost_s, best.bound_s, infeasible)


def _close(
    small: Problem,
    dual: Dual,
    best: Best,
    cutoff_s: float,
    deadline: float,
    tolerance: float,
    seed: int,
    on_better: OnBetter,
) -> bool:
    """CP-SAT over what reduced costs leave; returns whether nothing fits at all."""
    slack = dual.slack()
    ceiling = min(best.cost_s, cutoff_s)
    room = ceiling - slack.bound_s
    keep: Keep = [
        [int(s) for s in np.flatnonzero(row <= room * (1 + 1e-6) + 1e-12)]
        for row in slack.option_slack_s
    ]
    if any(not k for k in keep):
        best.bound_s = max(best.bound_s, ceiling)
        return False
    if best.choice is not None:
        for k, s in zip(keep, best.choice, strict=True):
            if s not in k:
                k.append(s)
                k.sort()
    core: Reduced = reduce(small, keep)
    size = sum(p.cost_s.size for p in core.problem.pairs)
    if size > MOST_PAIRS and best.choice is not None:
        return False
    hint = core.lower(best.choice) if best.choice is not None else None
    left = max(deadline - time.monotonic(), 0.2)
    closed = close(
        core.problem,
        [list(range(len(v.cost_s))) for v in core.problem.variables],
        hint=hint,
        time_limit_s=left,
        seed=seed,
        tolerance=tolerance,
        on_better=lambda cost: on_better(cost, best.bound_s),
    )
    if closed.choice is not None:
        best.offer(small, core.lift(closed.choice))
    if closed.infeasible:
        best.bound_s = max(best.bound_s, ceiling)
        return best.choice is None and ceiling == float("inf")
    best.bound_s = max(best.bound_s, min(closed.bound_s, ceiling))
    return False
