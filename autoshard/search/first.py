"""A first look at a large problem: bounds and answers before anything is reduced.

Reducing is exact, and pays where CP-SAT is to close what bounds leave open. A program of thousands
of decisions of which no two are alike takes longer to be reduced than its bounds take to meet; so
it is swept as it stands first. What that rules out or answers needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np

from autoshard.search.arrays import arrays
from autoshard.search.dual import Best, ascend
from autoshard.search.once import mapped
from autoshard.search.problem import Pair, Problem
from autoshard.search.reduce import Keep

# From this many decisions on a first look is worth it.
LARGE = 1500
# Sweeps of a look: at most, and whatever the clock says. Fewer find no answer worth having.
_SWEEPS, _LEAST_SWEEPS = 40, 8


def look(
    problem: Problem,
    keep: Keep | None,
    hints: Sequence[Sequence[int]],
    *,
    deadline: float,
    cutoff_s: float,
    tolerance: float,
) -> Best:
    """What a few sweeps find.

    Args:
        problem: the numbers.
        keep: options allowed per variable; all by default.
        hints: known answers; those that `keep` excludes are ignored.
        deadline: as in `dual.ascend`,
        cutoff_s: and so is this,
        tolerance: and this.

    Returns:
        An answer of `problem`, and a bound on all that `keep` allows.
    """
    small = problem if keep is None else only(problem, keep)
    flat = arrays(small)
    best = Best(None, float("inf"), float("-inf"))
    for hint in hints:
        lowered = hint if keep is None else _lowered(hint, keep)
        if lowered is not None:
            best.offer(flat, lowered)
    ascend(
        small,
        best,
        deadline=deadline,
        tolerance=tolerance,
        cutoff_s=cutoff_s,
        max_sweeps=_SWEEPS,
        least_sweeps=_LEAST_SWEEPS,
        flat=flat,
    )
    if best.choice is not None and keep is not None:
        best.choice = tuple(k[x] for k, x in zip(keep, best.choice, strict=True))
    return best


def only(problem: Problem, keep: Keep) -> Problem:
    """The problem with these options of its variables, in this order."""
    every = [len(k) == len(v.cost_s) for k, v in zip(keep, problem.variables, strict=True)]
    chosen = [np.array(k, dtype=np.int64) for k in keep]
    pairs: list[Pair] = []
    for p in problem.pairs:
        if not (every[p.a] and every[p.b]):
            at = np.ix_(chosen[p.a], chosen[p.b])
            p = Pair(p.a, p.b, p.cost_s[at], tuple(mapped(p.usage, itemgetter(at))))
        pairs.append(p)
    variables = tuple(
        v
        if whole
        else replace(v, cost_s=v.cost_s[at], usage=tuple(mapped(v.usage, itemgetter(at))))
        for v, whole, at in zip(problem.variables, every, chosen, strict=True)
    )
    return replace(problem, variables=variables, pairs=tuple(pairs))


def _lowered(hint: Sequence[int], keep: Keep) -> list[int] | None:
    """A hint as places in `keep`; None where it takes what is left out."""
    found: list[int] = []
    for x, k in zip(hint, keep, strict=True):
        if x not in k:
            return None
        found.append(k.index(x))
    return found
