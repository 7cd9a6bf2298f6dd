"""What a node holds, found from structure: state, weights, gradients, matmuls, activations."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import Enum

from autoshard.program.ir import Op, Program, Role
from autoshard.search.graph import Graph
from autoshard.search.regions import update_ops


class Kind(Enum):
    """What a node holds."""

    PARAMETER = "parameter"  # at rest
    OPTIMIZER = "optimizer"  # an optimizer leaf at rest, and the update
    WEIGHT = "weight"  # a parameter on its way to a use: cast, gathered; and constants
    GRADIENT = "gradient"  # of a parameter, on its way to the update
    MATMUL = "matmul"  # a matmul or convolution
    ACTIVATION = "activation"  # everything else


# Kinds at rest, and kinds that no batch reaches, which therefore wait for no activation.
AT_REST = frozenset({Kind.PARAMETER, Kind.OPTIMIZER})
WITHOUT_BATCH = AT_REST | {Kind.WEIGHT, Kind.GRADIENT}


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
    beside: dict[int, list[int]] = {}
    for f in graph.flows:
        if f.into != "new state":
            for a, b in zip(f.src_dims, f.dst_dims, strict=True):
                if a is not None and b is not None:
                    beside.setdefault(a, []).append(b)
                    beside.setdefault(b, []).append(a)
    waiting = list(found)
    while waiting:
        new = [c for c in beside.pop(waiting.pop(), ()) if c not in found]
        found.update(new)
        waiting += new
    return frozenset(found)


def node_kinds(graph: Graph, batch: frozenset[int], examples: AbstractSet[int]) -> tuple[Kind, ...]:
    """The kind of every node.

    Args:
        graph: the decisions.
        batch: classes, from `batch_classes`.
        examples: tensors, from `with_examples`.
    """
    program = graph.program
    inputs: dict[Role, set[int]] = {role: set() for role in Role}
    for leaf in program.inputs:
        if leaf.tensor is not None:
            inputs[leaf.role].add(leaf.tensor)
    update = update_ops(program)
    kinds: list[Kind] = []
    for node in graph.nodes:
        own = program.ops[node.own] if node.own is not None else None
        if own is not None and own.rule.op_class.is_matrix:
            kinds.append(Kind.MATMUL)
        elif not inputs[Role.OPTIMIZER].isdisjoint(node.tensors) or update & set(node.ops):
            kinds.append(Kind.OPTIMIZER)
        elif not inputs[Role.PARAMETER].isdisjoint(node.tensors):
            kinds.append(Kind.PARAMETER)
        elif batch.isdisjoint(node.classes) and examples.isdisjoint(
            node.tensors if node.use_of is None else (node.use_of,)
        ):
            kinds.append(Kind.WEIGHT)
        else:
            kinds.append(Kind.ACTIVATION)
    for node_id in _gradients(graph, kinds):
        kinds[node_id] = Kind.GRADIENT
    return tuple(kinds)


def with_examples(graph: Graph, batch: frozenset[int]) -> set[int]:
    """Tensors of code for one shard that hold examples of the batch.

    What is left of the batch there is no dimension that could be followed: a shard may hold a
    single example. So everything that is computed from examples holds some, but for sums that leave
    as such, as far back as the product that made them.
    """
    program = graph.program
    ops = [op for op in program.ops if _is_inside(program, op) or op.kind == "manual_out"]
    found: set[int] = set()
    while True:
        before = len(found)
        for op in ops:
            known = {t for t in op.inputs if t is not None}
            enters = op.kind == "manual_in" and any(
                c in batch for t in known for c in graph.dims[t]
            )
            if enters or not known.isdisjoint(found):
                found.update(op.outputs)
                if op.kind.endswith("_carry"):
                    found.update(known)
        if len(found) == before:
            break
    return found - _sums_inside(graph, ops, batch)


def _sums_inside(graph: Graph, ops: Sequence[Op], batch: frozenset[int]) -> set[int]:
    """Tensors of code for one shard that leave it as sums over examples, or as part of one."""
    again = {op.inputs[0] for op in ops if op.kind == "manual_in"}
    found: set[int] = set()
    for op in reversed(ops):
        (*outs,) = op.outputs
        if op.kind == "manual_out":
            leaves = batch.isdisjoint(c for t in outs for c in graph.dims[t] if c is not None)
            follows = leaves and again.isdisjoint(outs)
        else:
            sums = any(f.combiner is not None for f in op.rule.factors)
            follows = not found.isdisjoint(outs) and op.rule.op_class.is_light and not sums
        if follows:
            found.update(t for t in op.inputs if t is not None)
    return found


def _is_inside(program: Program, op: Op) -> bool:
    return program.regions[op.region].taken is not None


def _gradients(graph: Graph, kinds: list[Kind]) -> set[int]:
    """Nodes without batch that flow into the update and that no parameter flows into."""
    into: dict[int, list[int]] = {}
    out_of: dict[int, list[int]] = {}
    for f in graph.flows:
        if f.into != "new state":
            into.setdefault(f.dst, []).append(f.src)
            out_of.setdefault(f.src, []).append(f.dst)

    def reached(start: Kind, edges: dict[int, list[int]]) -> set[int]:
        found: set[int] = set()
        stack = [i for i, kind in enumerate(kinds) if kind is start]
        while stack:
            new = {
                j for j in edges.get(stack.pop(), ()) if kinds[j] is Kind.WEIGHT and j not in found
            }
            found |= new
            stack += new
        return found

    return reached(Kind.OPTIMIZER, into) - reached(Kind.PARAMETER, out_of)
