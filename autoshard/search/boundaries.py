"""Where a chain of layers that differ is cut into stages."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from ortools.sat.python import cp_model

# Work is counted in so many parts of the whole: whole numbers are what the solver takes.
_PARTS = 10**6
# What proving that no cut has a shorter longest stage may cost, in the solver's own seconds.
_EFFORT = 1.0


@functools.lru_cache(maxsize=256)
def boundaries(work: tuple[float, ...], stages: int) -> tuple[int, ...]:
    """Cut layers into stages so that the slowest has as little work as can be.

    Of the cuts for which that is so, one with as few layers in the longest stage as can be: every
    stage holds room for as many.

    Args:
        work: of each layer, in any unit.
        stages: how many; each gets one layer at least.

    Returns:
        The number of layers in each.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    n = len(work)
    if n < stages:
        raise ValueError(f"{n} layers do not make {stages} stages")
    unit = max(sum(work), 1e-300) / _PARTS
    parts = [max(0, round(each / unit)) for each in work]
    before = [0, *accumulate(parts)]
    least = _least_slowest(parts, stages)
    model = cp_model.CpModel()
    cuts = [
        model.new_int_var(s, n - (stages - s), f"first layer of stage {s}")
        for s in range(stages + 1)
    ]
    model.add(cuts[0] == 0)
    model.add(cuts[-1] == n)
    done = [model.new_int_var(0, before[-1], f"work before stage {s}") for s in range(stages + 1)]
    longest = model.new_int_var(-(-n // stages), n, "layers of the longest stage")
    for cut, total in zip(cuts, done, strict=True):
        model.add_element(cut, before, total)
    for (begin, end), (so_far, then) in zip(pairwise(cuts), pairwise(done), strict=True):
        model.add(end >= begin + 1)
        model.add(end - begin <= longest)
        model.add(then - so_far <= least)
    model.minimize(longest)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = _EFFORT
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise RuntimeError(f"no boundaries of stages: {solver.status_name(status)}")
    return tuple(solver.value(end) - solver.value(begin) for begin, end in pairwise(cuts))


def _least_slowest(parts: Sequence[int], stages: int) -> int:
    """The least work that the slowest of some stages can have.

    Whether a limit can be kept is seen by filling one stage after the other up to it, with a layer
    left for each of those to come.
    """

    def fits(limit: int) -> bool:
        at = 0
        for s in range(stages):
            last, total = len(parts) - (stages - 1 - s), 0
            while at < last and (total + parts[at] <= limit or not total):
                total += parts[at]
                at += 1
        return at == len(parts)

    low = max(max(parts), -(-sum(parts) // stages))
    return low + bisect_left(range(sum(parts) - low), True, key=lambda more: fits(low + more))
