"""A look at a problem before anything is reduced: its bounds hold, and so do its answers."""

from __future__ import annotations

import time

import pytest

from autoshard.search import solve as solving
from autoshard.search.first import look, only
from tests.search.oracle import brute_force, random_problem

SEEDS = range(40)


def test_bounds_and_answers_hold_of_all_options_and_of_some() -> None:
    for seed in SEEDS:
        problem = random_problem(seed)
        some = [list(range(max(1, len(v.cost_s) - 1))) for v in problem.variables]
        for keep in (None, some):
            truth, _ = brute_force(problem if keep is None else only(problem, keep))
            far = time.monotonic() + 10
            found = look(problem, keep, [], deadline=far, cutoff_s=float("inf"), tolerance=1e-9)
            if truth == float("inf"):
                assert found.choice is None, seed
                continue
            assert found.bound_s <= truth + 1e-9, seed
            if found.choice is None:
                continue
            assert problem.cost_s(found.choice) == pytest.approx(found.cost_s, abs=1e-12), seed
            assert found.cost_s >= truth - 1e-9, seed
            assert problem.peak_bytes(found.choice) <= problem.limit_bytes * (1 + 1e-9), seed
            if keep is not None:
                assert all(x in k for x, k in zip(found.choice, keep, strict=True)), seed


def test_hints_that_are_left_out_are_ignored() -> None:
    problem = random_problem(0).with_limit(float("inf"))
    keep = [[0] for _ in problem.variables]
    other = [len(v.cost_s) - 1 for v in problem.variables]
    far = time.monotonic() + 10
    found = look(problem, keep, [other], deadline=far, cutoff_s=float("inf"), tolerance=1e-9)
    assert found.choice == (0,) * len(problem.variables)


def test_large_problems_are_solved_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "LARGE", 0)
    for seed in SEEDS:
        problem = random_problem(seed)
        truth, _ = brute_force(problem)
        found = solving.solve(problem, tolerance=1e-9, time_limit_s=30)
        if truth == float("inf"):
            assert found.infeasible, seed
        else:
            assert found.cost_s == pytest.approx(truth, abs=1e-9), seed
            assert found.bound_s <= truth + 1e-9, seed
