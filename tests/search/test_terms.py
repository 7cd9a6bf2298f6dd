"""Terms by form: the tied problem made from them is the whole problem, tied."""

import dataclasses

import numpy as np
import pytest

from autoshard.machine import mesh_from_sizes, parse_machine
from autoshard.models.zoo import entries
from autoshard.search.build import Analysis, MeshProblem, build_problem
from autoshard.search.moments import lasting
from autoshard.search.tie import tie
from tests.search.programs import traced


def numbers(name: str, machine: str, sizes: dict[str, int], **changes: object) -> MeshProblem:
    entry = entries()[name]
    config = dataclasses.replace(entry.config, **changes)
    step, args = dataclasses.replace(entry, config=config).build(8)
    analysis = Analysis(traced(step, *args, donated=frozenset({0})).program)
    on = parse_machine(machine)
    return build_problem(analysis, on, mesh_from_sizes(on, sizes), 1e9)


@pytest.mark.parametrize("sizes", [{"data": 4, "tensor": 2}, {"data": 8, "tensor": 1}])
@pytest.mark.parametrize("machine", ["v5e:2x4", "h100:8"])
def test_tied_from_terms_is_the_whole_problem_tied(machine, sizes):
    """Its answers cost the same and are as large at their fullest, with far fewer times to ask."""
    on_mesh = numbers("gpt-tiny", machine, sizes, layers=8, scan=False)
    groups = on_mesh.analysis.alike
    whole, direct = tie(on_mesh.problem, groups), on_mesh.tied(groups)
    assert (whole.place, whole.first) == (direct.place, direct.first)
    assert direct.problem.horizon < whole.problem.horizon / 4
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = [int(rng.integers(len(v.cost_s))) for v in direct.problem.variables]
        assert direct.problem.cost_s(choice) == pytest.approx(whole.problem.cost_s(choice), 1e-12)
        assert direct.problem.peak_bytes(choice) == whole.problem.peak_bytes(choice)


def test_terms_of_repeated_layers_share_forms():
    forms = []
    for layers in (8, 12):
        on_mesh = numbers(
            "gpt-tiny", "v5e:2x4", {"data": 4, "tensor": 2}, layers=layers, scan=False
        )
        terms = on_mesh._terms
        forms.append((len(terms.own_forms), len(terms.stored_forms), len(terms.sent_forms)))
    assert forms[0] == forms[1]


def test_times_at_which_nothing_is_alive_alone_are_left_out():
    # The second ends as the third begins; the first is alive at neither end alone.
    start, end = np.array([0, 2, 5]), np.array([9, 5, 7])
    starts, ends, horizon = lasting(start, end)
    assert horizon == 1
    assert starts.tolist() == ends.tolist() == [0, 0, 0]
    starts, ends, horizon = lasting(start, np.array([9, 4, 7]))
    assert horizon == 2
    assert (starts.tolist(), ends.tolist()) == ([0, 0, 1], [1, 0, 1])
