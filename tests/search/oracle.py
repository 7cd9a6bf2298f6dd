"""The truth for small problems: every answer tried."""

from __future__ import annotations

import itertools

import numpy as np

from autoshard.search.problem import Pair, Problem, Usage, Variable


def brute_force(problem: Problem) -> tuple[float, tuple[int, ...] | None]:
    """(least cost, an answer with it), or (inf, None) when nothing fits."""
    best: tuple[float, tuple[int, ...] | None] = (float("inf"), None)
    for choice in itertools.product(*(range(len(v.cost_s)) for v in problem.variables)):
        if problem.peak_bytes(choice) <= problem.limit_bytes * (1 + 1e-9):
            cost = problem.cost_s(choice)
            if cost < best[0]:
                best = (cost, choice)
    return best


def least_peak(problem: Problem) -> float:
    every = itertools.product(*(range(len(v.cost_s)) for v in problem.variables))
    return min(problem.peak_bytes(choice) for choice in every)


def random_problem(seed: int, *, tightness: float | None = None) -> Problem:
    """A small problem with the shapes that occur: zero tables, ties, shared usage, loops.

    Args:
        seed: of the generator.
        tightness: the limit, between the least peak (0) and the peak of the cheapest (1);
            drawn from the seed when None.
    """
    rng = np.random.default_rng(seed)
    n, horizon = int(rng.integers(2, 7)), int(rng.integers(1, 8))
    sizes = rng.integers(1, 5, n)

    def usage(shape: tuple[int, ...]) -> tuple[Usage, ...]:
        found = []
        for _ in range(int(rng.integers(0, 3))):
            start = int(rng.integers(0, horizon))
            end = int(rng.integers(start, horizon))
            found.append(Usage(start, end, rng.integers(0, 9, shape) * 1024.0))
        return tuple(found)

    variables = tuple(Variable(rng.integers(0, 10, s) * 1e-3, usage((int(s),))) for s in sizes)
    pairs = []
    for a, b in itertools.combinations(range(n), 2):
        if rng.random() < 0.6:
            shape = (int(sizes[a]), int(sizes[b]))
            table = rng.integers(0, 10, shape) * 1e-3
            table[rng.random(shape) < 0.4] = 0.0
            pairs.append(Pair(a, b, table, usage(shape) if rng.random() < 0.4 else ()))
            if rng.random() < 0.2:  # parallel pair, the other way round
                pairs.append(Pair(b, a, rng.integers(0, 5, shape[::-1]) * 1e-3))
    free = Problem(variables, tuple(pairs), float("inf"), horizon)
    low = least_peak(free)
    cheapest = brute_force(free)[1]
    assert cheapest is not None
    high = max(free.peak_bytes(cheapest), low)
    share = float(rng.random()) * 1.2 - 0.1 if tightness is None else tightness
    return free.with_limit(low + share * (high - low))
