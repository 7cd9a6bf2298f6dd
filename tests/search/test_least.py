"""The least peak: what descending by one decision at a time cannot find, and bounds on it."""

import time
from itertools import pairwise

import numpy as np
import pytest

from autoshard.search.dual import polish
from autoshard.search.least import least_memory
from autoshard.search.level import level
from autoshard.search.problem import Pair, Problem, Usage, Variable
from tests.search.oracle import least_peak, random_problem

WHOLE, SPLIT = 0, 1


def flows(length: int, sizes: tuple[float, ...]) -> Problem:
    """Flows at one time each: a decision to split halves its bytes, a border costs a copy of all.

    Args:
        length: decisions per flow.
        sizes: bytes of a decision of each flow.
    """
    variables, pairs = list[Variable](), list[Pair]()
    for when, size in enumerate(sizes):
        first = len(variables)
        own = Usage(when, when, np.array([size, size / 2]))
        variables += [Variable(np.zeros(2), (own,)) for _ in range(length)]
        copy = Usage(when, when, size * (1 - np.eye(2)))
        ends = pairwise(range(first, first + length))
        pairs += [Pair(a, b, np.zeros((2, 2)), (copy,)) for a, b in ends]
    return Problem(tuple(variables), tuple(pairs), -1.0, len(sizes))


def test_a_flow_changes_its_layout_as_one() -> None:
    problem = flows(6, (8.0,))
    whole = (WHOLE,) * 6
    assert polish(problem, whole, {0: 1.0}) == whole, "no decision gains by going first"
    found = least_memory(problem, time_limit_s=0.0)
    assert found.choice == (SPLIT,) * 6
    assert (found.peak_bytes, found.bound_bytes) == (24.0, pytest.approx(24.0))


def test_what_is_not_alive_at_the_peak_is_kept_small_too() -> None:
    """Else the peak would only move, from one flow to the next."""
    problem = flows(6, tuple(8.0 - 0.1 * k for k in range(30)))
    found = level(problem, deadline=time.monotonic(), tolerance=0.0)
    assert problem.peak_bytes(found.choice) == 24.0


def test_times_that_trade_against_each_other_are_balanced() -> None:
    """Each of two decisions is small at one time or at the other; alike they pile up."""
    own = (Usage(0, 0, np.array([6.0, 2.0])), Usage(1, 1, np.array([2.0, 6.0])))
    problem = Problem((Variable(np.zeros(2), own),) * 2, (), -1.0, 2)
    found = least_memory(problem)
    assert sorted(found.choice) == [0, 1]
    assert (found.peak_bytes, found.bound_bytes) == (8.0, pytest.approx(8.0))


def test_bounds_hold_without_time_for_an_exact_answer() -> None:
    met = 0
    for seed in range(200):
        problem = random_problem(seed)
        found, truth = least_memory(problem, time_limit_s=0.0), least_peak(problem)
        assert problem.peak_bytes(found.choice) == pytest.approx(found.peak_bytes)
        assert found.bound_bytes <= truth <= found.peak_bytes + 1e-6, seed
        met += found.peak_bytes <= truth * 1.05
    assert met > 150


def test_hints_are_not_forgotten() -> None:
    for seed in range(20):
        problem = random_problem(seed)
        best = least_memory(problem)
        again = least_memory(problem, time_limit_s=0.0, hints=[best.choice])
        assert again.peak_bytes <= best.peak_bytes * (1 + 1e-9), seed


def test_nothing_to_decide_needs_nothing() -> None:
    assert least_memory(Problem((), (), 1.0, 0)).peak_bytes == 0.0
    problem = Problem((Variable(np.zeros(2)),), (), 1.0, 3)
    assert least_memory(problem).peak_bytes == 0.0
