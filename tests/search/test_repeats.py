"""Repeated layers: found, tied, and nothing lost by it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import plan
from autoshard.machine import mesh_from_sizes, parse_machine
from autoshard.models.zoo import entries
from autoshard.search.build import Analysis, build_problem
from autoshard.search.repeats import alike, runs
from autoshard.search.solve import solve
from autoshard.search.tie import tie
from tests.search.programs import floats, traced

MACHINE = parse_machine("v5e:2x4")
MESH = mesh_from_sizes(MACHINE, {"data": 4, "tensor": 2})


def unrolled(layers: int) -> Analysis:
    entry = entries()["gpt-tiny"]
    config = dataclasses.replace(entry.config, layers=layers, scan=False)
    step, args = dataclasses.replace(entry, config=config).build(8)
    return Analysis(traced(step, *args, donated=frozenset({0})).program)


@pytest.mark.parametrize("layers", [4, 5, 9])
@pytest.mark.parametrize("period", [12, 30])
def test_runs_are_found_in_a_sequence(layers, period):
    layer = np.arange(100, 100 + period)
    forms = np.concatenate([np.arange(7), np.tile(layer, layers), np.arange(50, 57)])
    assert runs(forms) == [(7, period, layers)]


def test_what_repeats_within_a_layer_is_no_layer():
    inner = np.arange(20)
    layer = np.concatenate([inner, inner, [77, 78, 79]])  # twice in a row, five layers
    (start, period, layers), *rest = runs(np.tile(layer, 5))
    assert (start, period, layers) == (0, 43, 5)
    assert not rest


@pytest.mark.parametrize("layers", [2, 4])
def test_few_layers_are_left_free(layers):
    assert not alike(unrolled(layers).graph)


def test_the_tied_problem_does_not_grow_with_depth():
    sizes = []
    for layers in (10, 20):
        analysis = unrolled(layers)
        groups = alike(analysis.graph)
        sizes.append(len(analysis.graph.nodes) - sum(len(g) - 1 for g in groups))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("limit", "loss"), [(1.0, 0.0), (0.7, 0.02)])
def test_tying_loses_nothing(limit, loss):
    """The best tied answer is as good as the best of all, and nearly so where memory is tight."""
    analysis = unrolled(8)
    numbers = build_problem(analysis, MACHINE, MESH, float("inf"))
    free = solve(numbers.problem, time_limit_s=60, tolerance=1e-4)
    peak = numbers.problem.peak_bytes(free.choice)
    problem = numbers.problem.with_limit(peak * limit)
    tied = tie(problem, alike(analysis.graph))
    assert len(tied.problem.variables) < len(problem.variables)
    found = solve(tied.problem, time_limit_s=60, tolerance=1e-4)
    whole = solve(problem, time_limit_s=60, tolerance=1e-4)
    lifted = tied.lift(found.choice)
    assert problem.cost_s(lifted) == pytest.approx(found.cost_s)
    np.testing.assert_allclose(
        problem.usage_bytes(lifted), tied.problem.usage_bytes(found.choice), rtol=1e-9
    )
    assert found.cost_s <= whole.cost_s * (1 + loss + 1e-4)


def test_a_stack_of_equal_matmuls_may_alternate():
    def stack(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    weights = [floats(512, 512) for _ in range(40)]
    analysis = Analysis(traced(stack, weights, floats(64, 512)).program)
    tied = {i: g for g in alike(analysis.graph) for i in g}
    products = [n.id for n in analysis.graph.nodes if n.own is not None]
    even, odd = products[3], products[4]
    assert products[5] in tied[even]
    assert odd not in tied[even]


def test_a_tight_plan_may_tell_layers_apart():
    entry = entries()["gpt-tiny"]
    config = dataclasses.replace(entry.config, layers=8, scan=False)
    step, args = dataclasses.replace(entry, config=config).build(8)
    ample = plan(step, *args, on="v5e:2x4", donate_argnums=0)
    assert ample.certificate.alike > 0
    tight = plan(
        step, *args, on="v5e:2x4", donate_argnums=0, memory=int(0.75 * ample.prediction.peak_bytes)
    )
    assert tight.prediction.peak_bytes <= 0.75 * ample.prediction.peak_bytes
    assert tight.certificate.lower_bound_s <= tight.prediction.step_s
