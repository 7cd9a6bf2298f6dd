"""Batch, sequence, experts and residual stream are found in every family of the zoo."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import pytest

from autoshard.models.zoo import zoo
from autoshard.program.ir import Role
from autoshard.search.build import Analysis
from autoshard.search.joined import accumulated, joined_sums
from autoshard.search.kinds import Kind
from tests.search.programs import floats, traced

BATCH = 8


def analysed(model: str) -> Analysis:
    step, args = zoo(model, batch_size=BATCH)
    return Analysis(traced(step, *args, donated=frozenset({0})).program)


def sizes(analysis: Analysis, classes: Iterable[int]) -> set[int]:
    return {analysis.graph.size[c] for c in classes}


@pytest.mark.parametrize(
    ("model", "sequence"),
    [
        ("gpt-tiny", {64}),
        ("gpt-linen-tiny", {64}),
        ("llama-tiny", {32}),
        ("moe-tiny", {32}),
        ("t5-tiny", {16, 32}),  # encoder and decoder
        ("vit-tiny", {17}),  # patches, and the class
        ("mlp-tiny", set()),
        ("dlrm-tiny", set()),
    ],
)
def test_sequences(model: str, sequence: set[int]) -> None:
    analysis = analysed(model)
    inside = {c for n in analysis.anatomy.residual for c in analysis.graph.nodes[n].classes}
    assert sizes(analysis, analysis.anatomy.sequence & inside) == sequence
    assert analysis.anatomy.sequence.isdisjoint(analysis.anatomy.batch)


def test_logits_are_not_part_of_the_residual_stream() -> None:
    analysis = analysed("gpt-tiny")
    nodes = [analysis.graph.nodes[n] for n in analysis.anatomy.residual]
    assert nodes
    for node in nodes:
        assert sizes(analysis, node.classes) == {BATCH, 64}  # sequence and embedding are equal
        assert len(node.classes) == 3


def test_a_skip_inside_a_branch_is_no_stream() -> None:
    analysis = analysed("ssm-tiny")
    for n in analysis.anatomy.residual:
        width = set(analysis.graph.nodes[n].classes)
        width -= analysis.anatomy.batch | analysis.anatomy.sequence
        assert sizes(analysis, width) == {32}  # not the wider inner dimension, which skips too


def test_experts_are_those_of_weights_not_of_the_router() -> None:
    analysis = analysed("moe-tiny")
    experts = analysis.anatomy.experts
    assert sizes(analysis, experts) == {4}
    split = [
        leaf.path
        for leaf in analysis.program.inputs
        if leaf.role is Role.PARAMETER and leaf.tensor is not None
        if not experts.isdisjoint(analysis.graph.dims[leaf.tensor])
    ]
    assert len(split) == 3
    assert all("experts" in path for path in split)


def test_parameters_gradients_and_optimizer_state_are_told_apart() -> None:
    analysis = analysed("mlp-tiny")
    graph, kinds = analysis.graph, analysis.kinds
    kind_of = {Role.PARAMETER: Kind.PARAMETER, Role.OPTIMIZER: Kind.OPTIMIZER}
    for leaf in analysis.program.inputs:
        if leaf.tensor is not None and leaf.role in kind_of:
            assert kinds[graph.node_of[leaf.tensor]] is kind_of[leaf.role], leaf.path
    gradients = {n for n, kind in enumerate(kinds) if kind is Kind.GRADIENT}
    assert gradients
    into = {kinds[f.dst] for f in graph.flows if f.src in gradients}
    assert into <= {Kind.GRADIENT, Kind.OPTIMIZER}


def test_partial_sums_that_are_added_are_sent_as_one() -> None:
    x, w = floats(8, 4), floats(4, 16)
    graph = Analysis(traced(lambda x, a, b, c: x @ a + x @ b + x @ c, x, w, w, w).program).graph
    (group,) = joined_sums(graph)
    assert len(group) == 3


def test_a_transpose_on_the_way_parts_no_sum() -> None:
    def both(x: jax.Array, a: jax.Array, b: jax.Array, y: jax.Array) -> jax.Array:
        return x @ a + (b @ y).T

    args = floats(8, 4), floats(4, 16), floats(16, 4), floats(4, 8)
    graph = Analysis(traced(both, *args).program).graph
    (group,) = joined_sums(graph)
    assert sorted(part.order for part in group) == [(0, 1), (1, 0)]


def test_what_a_loop_only_adds_up_is_known() -> None:
    def shared(bias: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(lambda x, _: (jnp.tanh(x + bias), None), x, length=3)[0])

    program = traced(jax.grad(shared), floats(4), floats(8, 4)).program
    found = accumulated(program)
    sums = [
        op
        for op in program.ops
        if op.kind == "reduce_sum" and program.regions[op.region].kind == "scan"
    ]
    assert sums
    assert all(found[op.outputs[0]] == 0 for op in sums)


def test_a_carry_that_is_looked_at_is_summed_every_round() -> None:
    def watched(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(total: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            return total + jnp.sum(row), jnp.tanh(total)

        return jax.lax.scan(body, jnp.zeros(()), x)

    assert accumulated(traced(watched, floats(3, 8)).program) == {}


def test_a_partial_sum_that_is_read_elsewhere_is_sent_alone() -> None:
    def both(x: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = x @ a
        return first + x @ b, jnp.tanh(first)

    graph = Analysis(traced(both, floats(8, 4), floats(4, 16), floats(4, 16)).program).graph
    assert joined_sums(graph) == ()
