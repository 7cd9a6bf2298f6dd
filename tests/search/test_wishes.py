"""What users say of one decision in several places holds together, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from autoshard import IntentError, pin
from autoshard.machine import mesh_from_sizes, parse_machine
from autoshard.search import wishes
from autoshard.search.build import Analysis, MeshProblem, build_problem
from autoshard.trace.function import trace
from autoshard.trace.signature import signature


@pytest.fixture
def numbers() -> MeshProblem:
    sig = signature((jnp.ones((16, 8)), jnp.ones((8, 16))), ["x", "w"])
    traced = trace(lambda x, w: x @ w, sig, name="fn")
    machine = parse_machine("cpu:8")
    mesh = mesh_from_sizes(machine, {"data": 4, "tensor": 2})
    return build_problem(Analysis(traced.program), machine, mesh, 1e9)


def said(numbers: MeshProblem, *allowed: set[int]) -> Any:
    """Constraints of a user's own on the node of the first input."""
    node = numbers.analysis.graph.node_of[0]
    count = len(numbers.layouts.options[node])

    def constraints(_: MeshProblem) -> Iterator[tuple[int, Any, str]]:
        for k, options in enumerate(allowed):
            yield node, np.array([o in options for o in range(count)]), f"constraint {k}"

    return node, constraints


def test_both_hold(numbers: MeshProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    node, constraints = said(numbers, {0, 1, 2}, {1, 2, 3})
    monkeypatch.setattr(wishes, "_own_constraints", constraints)
    mask = wishes.grant(numbers, ()).allowed[node]
    assert np.flatnonzero(mask).tolist() == [1, 2]


def test_two_that_contradict(numbers: MeshProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    _, constraints = said(numbers, {0}, {1})
    monkeypatch.setattr(wishes, "_own_constraints", constraints)
    with pytest.raises(IntentError, match="constraint 0 and constraint 1 contradict each other"):
        wishes.grant(numbers, ())


def test_a_pin_that_contradicts(numbers: MeshProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    _, constraints = said(numbers, {0})  # whole
    monkeypatch.setattr(wishes, "_own_constraints", constraints)
    with pytest.raises(IntentError, match=r"constraint 0 contradicts pin\('x', P\('data'\)\)"):
        wishes.grant(numbers, [pin("x", P("data"))])
