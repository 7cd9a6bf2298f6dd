"""One problem, solved: reduce, bound, find answers, and close with CP-SAT."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.search.arrays import Arrays, arrays
from autoshard.search.cpsat import close
from autoshard.search.dual import Best, Dual, ascend, polish
from autoshard.search.first import LARGE, look
from autoshard.search.fixing import in_play
from autoshard.search.primal import Primal
from autoshard.search.problem import Problem, gap
from autoshard.search.reduce import Keep, Reduced, reduce

# CP-SAT gets the cells that reduced costs leave; beyond this many pair variables it would only
# burn time, and the answer keeps the dual bound's gap.
MOST_PAIRS = 60_000
# Bounding may take this part of the time left.
_BOUNDING = 0.25
# With all the time there is: bounding, then looking for answers before CP-SAT is tried, and CP-SAT
# before answers are looked for again.
_THOROUGH_BOUNDING, _LOOKING, _TRYING = 0.15, 0.2, 0.75
_THOROUGH_SWEEPS = 3000
# Looking ends after so many dives without a better answer; where CP-SAT cannot help it goes on.
_PATIENCE = 12
# What is left in play is reduced and bounded anew if it is at most this part of the options ...
_SHRINKS = 0.9
# ... and at most this often.
_ROUNDS = 3
# Sweeps before anything is reduced.
_SCREENING = 20

OnBetter = Callable[[float, float], None]


@dataclass(frozen=True)
class Solution:
    """What was found for one problem.

    Attributes:
        choice: the best feasible answer, None if there is none (yet).
        cost_s, bound_s: its objective, and a bound on every answer's.
        infeasible: proven that nothing fits.
        interrupted: by Ctrl-C; the best so far is told (only where all the time was to be used).
    """

    choice: tuple[int, ...] | None
    cost_s: float
    bound_s: float
    infeasible: bool = False
    interrupted: bool = False

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
    screen: bool = False,
    thorough: bool = False,
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
        screen: look first, before anything dear, whether a few sweeps reach the cutoff.
        thorough: use all the time there is, for problems too large to close; Ctrl-C then ends the
            search and what was found is returned.
        on_better: called with (cost, bound) as they improve.
    """
    deadline = time.monotonic() + time_limit_s
    known = Best(None, float("inf"), float("-inf"))
    if len(problem.variables) >= LARGE and not thorough:
        known = look(
            problem,
            keep,
            hints,
            deadline=deadline,
            cutoff_s=cutoff_s,
            tolerance=tolerance,
        )
        on_better(known.cost_s, known.bound_s)
        late = known.choice is not None and time.monotonic() > deadline
        if late or known.bound_s >= cutoff_s or known.gap() <= tolerance:
            return Solution(known.choice, known.cost_s, known.bound_s)
        hints = [*hints, *([known.choice] if known.choice is not None else [])]
    elif (
        screen
        and math.isfinite(cutoff_s)
        and (bound_s := _screened(problem, deadline, cutoff_s)) >= cutoff_s
    ):
        return Solution(None, float("inf"), bound_s)
    reduced = reduce(problem, keep)
    small = reduced.problem
    if reduced.infeasible or small.unavoidable_bytes() > small.limit_bytes + small.hair_bytes:
        return Solution(None, float("inf"), float("inf"), infeasible=True)
    flat = arrays(small)
    best = Best(None, float("inf"), known.bound_s)
    for hint in hints:
        lowered = reduced.lower(hint)
        if lowered is not None:
            best.offer(flat, lowered)
            best.offer(flat, polish(small, lowered, {}))
    if best.choice is not None:
        on_better(best.cost_s, best.bound_s)
    search = _Search(small, flat, best, cutoff_s, deadline, tolerance, seed, on_better)
    infeasible = interrupted = False
    if thorough:
        try:
            search.thoroughly()
        except KeyboardInterrupt:
            interrupted = True
    else:
        dual = search.bound(_BOUNDING if exact else 1.0, max_sweeps)
        if exact and search.is_open():
            infeasible = search.close(dual, max_sweeps)
    choice = reduced.lift(best.choice) if best.choice is not None else None
    return Solution(choice, best.cost_s, best.bound_s, infeasible, interrupted)


def _screened(problem: Problem, deadline: float, cutoff_s: float) -> float:
    """A quick bound. Reducing a problem takes far longer, and many meshes are nowhere near."""
    best = Best(None, float("inf"), float("-inf"))
    ascend(
        problem,
        best,
        deadline=_part(deadline, _BOUNDING),
        tolerance=0.0,
        cutoff_s=cutoff_s,
        max_sweeps=_SCREENING,
    )
    return best.bound_s


@dataclass
class _Search:
    """One reduced problem and the best known about it."""

    small: Problem
    flat: Arrays
    best: Best
    cutoff_s: float
    deadline: float
    tolerance: float
    seed: int
    on_better: OnBetter

    def is_open(self) -> bool:
        return self.best.gap() > self.tolerance and self.best.bound_s < self.cutoff_s

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def bound(self, share: float, max_sweeps: int) -> Dual:
        """The dual, in a share of the time left."""
        dual = ascend(
            self.small,
            self.best,
            deadline=_part(self.deadline, share),
            tolerance=self.tolerance,
            cutoff_s=self.cutoff_s,
            max_sweeps=max_sweeps,
            flat=self.flat,
        )
        self.on_better(self.best.cost_s, self.best.bound_s)
        return dual

    def thoroughly(self) -> None:
        """Bound, look for answers, close; the last two in turns until the time is over."""
        dual = self.bound(_THOROUGH_BOUNDING, _THOROUGH_SWEEPS)
        look = Primal(
            dual, self.best, self.seed, lambda cost: self.on_better(cost, self.best.bound_s)
        )
        workers = min(2, os.cpu_count() or 1)
        tried = float("inf")
        share = _LOOKING
        while self.is_open() and self.left() > 0:
            look.run(
                deadline=_part(self.deadline, share),
                workers=workers,
                patience=_PATIENCE if share < 1.0 else 1 << 30,
            )
            if self.is_open() and self.best.cost_s < tried and self.left() > 0:
                tried = self.best.cost_s
                self.close(dual, _THOROUGH_SWEEPS, share=_TRYING)
            # What a longer look finds may make what was too large small enough.
            share = 0.5 if self.left() > 1.0 and share < 0.5 else 1.0

    def close(self, dual: Dual, max_sweeps: int, share: float = 1.0) -> bool:
        """Cut down what the bound leaves in play for as long as that helps, then CP-SAT.

        Returns:
            Whether nothing fits at all.
        """
        best, core, lifts = self.best, self.small, list[Reduced]()
        hint, deadline = best.choice, _part(self.deadline, share)
        while True:
            ceiling = min(best.cost_s, self.cutoff_s)
            play = in_play(core, dual.slack(), ceiling, hint)
            if not play.possible:
                best.bound_s = max(best.bound_s, ceiling)
                return False
            options = sum(len(v.cost_s) for v in core.variables)
            if sum(map(len, play.options)) > _SHRINKS * options or len(lifts) >= _ROUNDS:
                break
            lifts.append(reduce(core, play.options))
            core = lifts[-1].problem
            if lifts[-1].infeasible:
                best.bound_s = max(best.bound_s, ceiling)
                return False
            hint = lifts[-1].lower(hint) if hint is not None else None
            inner = Best(hint, best.cost_s, float("-inf"))
            dual = ascend(
                core,
                inner,
                deadline=_part(deadline, _BOUNDING),
                tolerance=self.tolerance,
                cutoff_s=ceiling,
                max_sweeps=max_sweeps,
            )
            if inner.choice is not None and inner.cost_s < best.cost_s:
                hint = inner.choice
                self._take(inner.choice, lifts)
            best.bound_s = max(best.bound_s, min(inner.bound_s, ceiling))
            if not self.is_open() or inner.bound_s >= ceiling:
                return False
        if play.count() > MOST_PAIRS and best.choice is not None:
            return False
        closed = close(
            core,
            hint=hint,
            time_limit_s=max(deadline - time.monotonic(), 0.2),
            dual=dual,
            ceiling_s=ceiling,
            seed=self.seed,
            tolerance=self.tolerance,
            on_better=lambda choice: self._take(choice, lifts),
        )
        if closed.choice is not None:
            self._take(closed.choice, lifts)
        if closed.infeasible:
            best.bound_s = max(best.bound_s, ceiling)
            return best.choice is None and ceiling == float("inf")
        best.bound_s = max(best.bound_s, min(closed.bound_s, ceiling))
        return False

    def _take(self, choice: Sequence[int], lifts: Sequence[Reduced]) -> None:
        for lift in reversed(lifts):
            choice = lift.lift(choice)
        if self.best.offer(self.flat, choice):
            self.on_better(self.best.cost_s, self.best.bound_s)


def _part(deadline: float, share: float) -> float:
    """When a share of the time left will be over."""
    now = time.monotonic()
    return now + share * (deadline - now)
