"""What a node holds, found from structure: state, weights in use, matmuls, activations."""

from __future__ import annotations

from enum import Enum

from autoshard.program.ir import Role
from autoshard.search.graph import Graph
from autoshard.search.regions import update_ops


class Kind(Enum):
    """What a node holds."""

    STATE = "state"  # a parameter or optimizer leaf at rest, or its update
    WEIGHT = "weight"  # a parameter on its way to a use: cast, gathered
    MATMUL = "matmul"  # a matmul or convolution
    ACTIVATION = "activation"  # everything else


def batch_classes(graph: Graph) -> frozenset[int]:
    """Classes that the batch flows into.

    It starts at the first dimension that may be split of every data input and follows flows, both
    ways: a tensor has the same dimensions on either side.
    """
    found: set[int] = set()
    for leaf in graph.program.inputs:
        if leaf.role is Role.DATA and leaf.tensor is not None:
            dims = [c for c in graph.dims[leaf.tensor] if c is not None]
            found.update(dims[:1])
    flows = [f for f in graph.flows if f.into != "new state"]
    while True:
        before = len(found)
        for f in flows:
            for a, b in zip(f.src_dims, f.dst_dims, strict=True):
                if a is not None and b is not None and (a in found or b in found):
                    found |= {a, b}
        if len(found) == before:
            return frozenset(found)


def node_kinds(graph: Graph, batch: frozenset[int]) -> tuple[Kind, ...]:
    """The kind of every node."""
    program = graph.program
    state = {leaf.tensor for leaf in program.inputs if leaf.role is not Role.DATA}
    update = update_ops(program)
    kinds: list[Kind] = []
    for node in graph.nodes:
        own = program.ops[node.own] if node.own is not None else None
        if own is not None and own.rule.op_class.is_matrix:
            kinds.append(Kind.MATMUL)
        elif state & set(node.tensors) or update & set(node.ops):
            kinds.append(Kind.STATE)
        elif batch.isdisjoint(node.classes):
            kinds.append(Kind.WEIGHT)
        else:
            kinds.append(Kind.ACTIVATION)
    return tuple(kinds)
