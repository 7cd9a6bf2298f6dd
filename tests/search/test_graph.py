"""Decisions from factors: what shares one, and where layouts may change."""

from typing import Any

import jax
import jax.numpy as jnp

from autoshard.program.ir import Role
from autoshard.search.graph import Graph, build_graph
from tests.search.programs import floats, traced


def graph_of(fn: Any, *args: Any) -> Graph:
    return build_graph(traced(fn, *args).program)


def input_dims(graph: Graph, i: int) -> tuple[int | None, ...]:
    tensor = graph.program.inputs[i].tensor
    assert tensor is not None
    return graph.dims[tensor]


def output_dims(graph: Graph, i: int) -> tuple[int | None, ...]:
    where = graph.out_node[i]
    assert where is not None
    return where[1]


def test_elementwise_ties_all_dimensions() -> None:
    graph = graph_of(lambda x, y: (jnp.tanh(x) * y).astype("bfloat16"), floats(8, 4), floats(8, 4))
    assert input_dims(graph, 0) == input_dims(graph, 1) == output_dims(graph, 0)
    assert not graph.flows


def test_broadcasting_a_row_ties_what_it_has() -> None:
    graph = graph_of(lambda x, b: x + b, floats(8, 4), floats(4))
    assert input_dims(graph, 1)[0] == input_dims(graph, 0)[1]


def test_transposes_carry_classes_along() -> None:
    graph = graph_of(lambda x: x.T + 1.0, floats(8, 4))
    assert output_dims(graph, 0) == input_dims(graph, 0)[::-1]


def test_a_matmul_stands_alone_between_flows() -> None:
    graph = graph_of(lambda x, w: x @ w, floats(8, 4), floats(4, 16))
    into = sorted(f.into for f in graph.flows)
    assert into == ["operand", "operand", "result"]
    result = next(f for f in graph.flows if f.into == "result")
    ((contracted, _combiner),) = result.partial
    assert graph.size[contracted] == 4


def test_a_class_never_stands_on_two_dimensions_of_a_tensor() -> None:
    def scores(x: Any) -> Any:
        mask = jnp.arange(8)[:, None] >= jnp.arange(8)[None, :]
        return jnp.where(mask, jnp.outer(x, x), 0.0)

    graph = graph_of(scores, floats(8))
    for dims in graph.dims:
        classes = [c for c in dims if c is not None]
        assert len(set(classes)) == len(classes), dims


def test_stacked_layers_are_never_split_over_the_stack() -> None:
    def layers(x: Any, stack: Any) -> Any:
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), c), x, stack)

    graph = graph_of(layers, floats(8, 4), floats(6, 4, 4))
    assert input_dims(graph, 1)[0] is None
    assert output_dims(graph, 1)[0] is None  # stacked residuals
    assert output_dims(graph, 1)[1] is not None


def step(state: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        return jnp.sum(jnp.tanh(x @ w["w"] + w["b"]) ** 2)

    value, grads = jax.value_and_grad(loss)(state["w"])
    m = jax.tree.map(lambda a, g: 0.9 * a + g, state["m"], grads)
    new = jax.tree.map(lambda a, b: a - 0.1 * b, state["w"], m)
    return {"w": new, "m": m}, value


def state() -> Any:
    leaf = {"w": floats(4, 16), "b": floats(16)}
    return {"w": leaf, "m": leaf}


def test_roles_are_found_without_names() -> None:
    roles = {x.path: x.role for x in traced(step, state(), floats(8, 4)).program.inputs}
    assert roles == {
        "a0['m']['b']": Role.OPTIMIZER,
        "a0['m']['w']": Role.OPTIMIZER,
        "a0['w']['b']": Role.PARAMETER,
        "a0['w']['w']": Role.PARAMETER,
        "a1": Role.DATA,
    }


def test_parameter_gradient_and_optimizer_state_may_lie_differently() -> None:
    graph = graph_of(step, state(), floats(8, 4))
    program = graph.program
    by_path = {x.path: graph.node_of[x.tensor] for x in program.inputs if x.tensor is not None}
    assert by_path["a0['w']['w']"] != by_path["a0['m']['w']"]
    gradient = [f for f in graph.flows if f.into == "operand" and f.dst == by_path["a0['m']['w']"]]
    assert gradient, "the gradient enters the optimizer through a flow"
    new_state = [f for f in graph.flows if f.into == "new state"]
    assert {f.dst for f in new_state} >= {by_path["a0['w']['w']"]}


def test_an_op_that_needs_a_dimension_whole_keeps_the_need_to_itself() -> None:
    graph = graph_of(lambda x: jnp.cumsum(jnp.tanh(x), axis=1) * 2.0, floats(8, 4))
    assert input_dims(graph, 0)[1] is not None
    assert output_dims(graph, 0)[1] is not None
    cumsum = next(op for op in graph.program.ops if op.kind == "cumsum")
    node = graph.nodes[graph.op_node[cumsum.id]]
    assert node.own == cumsum.id
    assert len(node.classes) == 1  # the batch; the summed dimension stays whole here


def test_readers_close_together_share_one_resharded_copy() -> None:
    graph = graph_of(lambda x, a, b: (x @ a) + (x @ b), floats(8, 4), floats(4, 4), floats(4, 4))
    shared = [n for n in graph.nodes if n.use_of is not None]
    assert len(shared) == 1


def test_classes_that_never_meet_are_not_held_together_by_what_both_read() -> None:
    def turned(x: Any, y: Any) -> Any:
        angles = jnp.arange(4.0)  # of `x` and `y` alike, as a rotary embedding's
        return x * angles, y * angles

    graph = graph_of(turned, floats(8, 4), floats(16, 4))
    (left, _), (right, _) = input_dims(graph, 0), input_dims(graph, 1)
    assert left is not None
    assert right is not None
    assert not any({left, right} <= set(node.classes) for node in graph.nodes)
