"""Differences between plans: what runs differently is one, how it was found is none."""

from dataclasses import replace

from autoshard.plan.model import Plan
from autoshard.program.spec import Spec
from tests.plan.sample import make_plan


def changed(plan: Plan) -> Plan:
    """Another spec, another order of constraints, one collective less, and faster."""
    embed = next(i for i, x in enumerate(plan.inputs) if x.path == "state['params']['embed']")
    leaf = replace(plan.inputs[embed], spec=Spec.of(None, None))
    first = replace(plan.constraints[0], specs=(Spec.of("tensor", None, None),))
    new = replace(plan.constraints[1], at="99")
    return replace(
        plan,
        inputs=(*plan.inputs[:embed], leaf, *plan.inputs[embed + 1 :]),
        constraints=(first, new, *plan.constraints[2:]),
        collectives=plan.collectives[1:],
        prediction=replace(plan.prediction, step_s=plan.prediction.step_s / 2),
    )


def test_no_differences():
    found = make_plan().diff(make_plan())
    assert not found
    assert str(found) == "no differences"


def test_how_it_was_found_is_no_difference():
    plan = make_plan()
    later = replace(
        plan,
        certificate=replace(plan.certificate, search_s=99.0, rivals=()),
        versions=(("jax", "0.11"),),
    )
    assert not plan.diff(later)


def test_everything_that_changed_is_there():
    plan = make_plan()
    found = plan.diff(changed(plan))
    assert found
    (spec,) = found.specs
    assert (spec.path, spec.before, spec.after) == (
        "state['params']['embed']",
        Spec.of("tensor", "data"),
        Spec.of(None, None),
    )
    counts = (found.constraints_added, found.constraints_removed, found.constraints_changed)
    assert tuple(map(len, counts)) == (1, 1, 1)
    (traffic,) = found.collectives
    assert (traffic.kind, traffic.axes) == ("all-gather", ("data",))
    assert traffic.before.count - traffic.after.count == 144
    assert found.identity == ()
    text = str(found)
    for part in (
        "predicted step: 166 ms -> 82.8 ms (0.50x)",
        "predicted peak per device: 5.10 GiB, unchanged",
        "state['params']['embed']: P('tensor', 'data') -> P(None, None)",
        "constraints: 1 added, 1 removed, 1 changed",
        "all-gather over data: 290 x, ",
    ):
        assert part in text


def test_backwards_is_the_mirror():
    plan = make_plan()
    there, back = plan.diff(changed(plan)), changed(plan).diff(plan)
    assert there.constraints_added == back.constraints_removed
    assert [(s.before, s.after) for s in there.specs] == [(s.after, s.before) for s in back.specs]
    assert there.step_s == back.step_s[::-1]


def test_mesh_and_order_of_devices():
    plan = make_plan()
    turned = replace(plan, mesh=replace(plan.mesh, device_order=tuple(range(8))))
    (order,) = plan.diff(turned).identity
    assert (order.before, order.after) == ("0 4 1 5 2 6 3 7", "0 1 2 3 4 5 6 7")
    other = replace(plan, mesh=replace(plan.mesh, axis_sizes=(2, 4)))
    assert "mesh: data 4 x tensor 2 -> data 2 x tensor 4" in str(plan.diff(other))


def test_a_leaf_that_came_is_none_before():
    plan = make_plan()
    fewer = replace(plan, inputs=plan.inputs[1:])
    (spec,) = fewer.diff(plan).specs
    assert spec.before is None
    assert "none -> P()" in str(fewer.diff(plan))
