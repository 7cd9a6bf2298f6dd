"""The solver against the truth, on problems small enough to try every answer."""

import time

import pytest

from autoshard.search.dual import Best, ascend
from autoshard.search.least import least_memory
from autoshard.search.reduce import reduce
from autoshard.search.solve import solve
from tests.search.oracle import brute_force, least_peak, random_problem

SEEDS = range(300)


@pytest.mark.parametrize("block", range(10))
def test_solve_equals_brute_force(block: int) -> None:
    for seed in SEEDS[block::10]:
        problem = random_problem(seed)
        truth, _ = brute_force(problem)
        found = solve(problem, tolerance=1e-9, time_limit_s=30)
        if truth == float("inf"):
            assert found.infeasible, seed
            continue
        assert found.choice is not None, seed
        assert found.cost_s == pytest.approx(truth, abs=1e-9), seed
        assert problem.cost_s(found.choice) == pytest.approx(found.cost_s, abs=1e-12)
        assert problem.peak_bytes(found.choice) <= problem.limit_bytes * (1 + 1e-9)
        assert found.bound_s <= truth + 1e-9, seed


def test_reductions_keep_the_optimum_and_lift_it() -> None:
    shrunk = 0
    for seed in SEEDS:
        problem = random_problem(seed)
        truth, _ = brute_force(problem)
        reduced = reduce(problem)
        value, choice = brute_force(reduced.problem)
        assert value == pytest.approx(truth, abs=1e-9), seed
        if choice is not None:
            lifted = reduced.lift(choice)
            assert problem.cost_s(lifted) == pytest.approx(value, abs=1e-9), seed
            assert problem.peak_bytes(lifted) <= problem.limit_bytes * (1 + 1e-9), seed
        shrunk += len(reduced.problem.variables) < len(problem.variables)
    assert shrunk > len(SEEDS) / 2


def test_lowering_undoes_lifting() -> None:
    for seed in SEEDS:
        reduced = reduce(random_problem(seed))
        _, choice = brute_force(reduced.problem)
        if choice is not None:
            assert reduced.lower(reduced.lift(choice)) == choice


def test_every_bound_on_the_way_is_valid() -> None:
    for seed in SEEDS:
        problem = random_problem(seed)
        truth, _ = brute_force(problem)
        for sweeps in (1, 2, 5, 30):
            best = Best(None, float("inf"), float("-inf"))
            deadline = time.monotonic() + 10
            ascend(problem, best, deadline=deadline, tolerance=0.0, max_sweeps=sweeps)
            assert best.bound_s <= truth + 1e-9, (seed, sweeps)
            assert best.cost_s >= truth - 1e-9, (seed, sweeps)


def test_reduced_costs_never_exclude_an_optimum() -> None:
    for seed in SEEDS:
        problem = random_problem(seed)
        truth, choice = brute_force(problem)
        if choice is None:
            continue
        best = Best(None, float("inf"), float("-inf"))
        dual = ascend(problem, best, deadline=time.monotonic() + 10, tolerance=0.0, max_sweeps=10)
        slack = dual.slack()
        for i, option in enumerate(choice):
            assert slack.bound_s + slack.option_slack_s[i][option] <= truth + 1e-9, (seed, i)


def test_least_memory_is_the_least() -> None:
    for seed in list(SEEDS)[:60]:
        problem = random_problem(seed)
        least, truth = least_memory(problem), least_peak(problem)
        assert problem.peak_bytes(least.choice) == pytest.approx(least.peak_bytes)
        assert least.peak_bytes == pytest.approx(truth, rel=3e-3), seed
        assert least.bound_bytes <= truth, seed


def test_a_restriction_is_respected() -> None:
    for seed in list(SEEDS)[:60]:
        problem = random_problem(seed, tightness=1.0)
        keep = [[len(v.cost_s) - 1] for v in problem.variables]
        found = solve(problem.with_limit(float("inf")), keep=keep, tolerance=1e-9)
        assert found.choice == tuple(k[0] for k in keep)
