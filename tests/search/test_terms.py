"""Terms by form: the tied problem made from them is the whole problem, tied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.cost.reshard import WHOLE
from autoshard.cost.reshard import on as on_dim
from autoshard.machine import mesh_from_sizes, parse_machine
from autoshard.models.zoo import entries
from autoshard.search.build import Analysis, MeshProblem, build_problem
from autoshard.search.moments import lasting
from autoshard.search.terms import Rows, Turned
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
        terms = on_mesh.terms
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


def copies(on_mesh: MeshProblem) -> list[tuple[Turned, np.ndarray]]:
    """Copies in another order that loops may need, and their bytes per pair of layouts."""
    return [
        (form, on_mesh.prices.sent_bytes[k])
        for k, form in enumerate(on_mesh.terms.sent_forms)
        if isinstance(form, Turned) and on_mesh.prices.sent_bytes[k] is not None
    ]


@pytest.mark.parametrize("machine", ["8xh100", "v5e:2x4"])
def test_gathering_an_inner_dimension_takes_a_copy_of_the_stack_on_a_gpu(machine):
    def step(weights, x):
        return jax.lax.scan(lambda carry, w: (carry @ w, None), x, weights)[0]

    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 64, 64), (8, 64))]
    on = parse_machine(machine)
    analysis = Analysis(traced(step, *args).program)
    on_mesh = build_problem(analysis, on, mesh_from_sizes(on, {"data": 8}), 1e9)
    if machine == "v5e:2x4":
        assert not copies(on_mesh)
        return
    ((turned, sizes),) = copies(on_mesh)
    flow, layouts = turned.flow, on_mesh.layouts
    for a, src in enumerate(layouts.state(flow.src, flow.src_dims)[:, 0]):
        for b, dst in enumerate(layouts.state(flow.dst, flow.dst_dims)[:, 0]):
            gathered = src == on_dim(1) and dst == WHOLE
            assert sizes[a, b] == (8 * 64 * 64 * 4 / 8 if gathered else 0)


def test_rows_looked_up_in_what_a_loop_stacked_take_a_copy_of_it_on_a_tpu():
    changes = {"remat": True}
    on_tpu = copies(numbers("gnn-tiny", "v5e:2x4", {"data": 8}, **changes))
    assert on_tpu
    assert not any(form.gathered for form, _ in on_tpu)
    assert not copies(numbers("gpt-tiny", "v5e:2x4", {"data": 8}))


def test_narrow_rows_are_copied_for_lookups_on_a_tpu():
    def step(table, index):
        return jax.grad(lambda table: table[index].sum())(table)

    table = jax.ShapeDtypeStruct((1 << 20, 128), jnp.float32)
    analysis = Analysis(traced(step, table, jax.ShapeDtypeStruct((64,), jnp.int32)).program)
    on = parse_machine("v5e:2x4")
    on_mesh = build_problem(analysis, on, mesh_from_sizes(on, {"data": 8}), 1e12)
    found = [
        (form, on_mesh.prices.stored_bytes[k])
        for k, form in enumerate(on_mesh.terms.stored_forms)
        if isinstance(form, Rows)
    ]
    assert [form.op.kind for form, _ in found] == ["scatter-add"]
    ((rows, sizes),) = found
    node = analysis.graph.op_node[rows.op.id]
    classes = analysis.graph.op_classes[rows.op.id]
    columns = classes[rows.op.rule.operands[0][1]]
    split = on_mesh.layouts.shards(node, frozenset({columns}))
    # 16 of 128 lanes are used: the gradient, and what the optimizer would update with it.
    assert np.array_equal(sizes, np.where(split == 8, rows.copies * 4 * (1 << 27), 0))
    assert (split == 8).any()
