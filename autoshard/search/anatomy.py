"""What an expert sees in a program: batch, sequence, experts, residual stream; never by name.

* *Weight products* are matmuls and convolutions with the batch on one operand only: the other is
  a weight.
* The *residual stream* is where the result of a branch of at least two weight products is added
  to what the branch began from.
* The *sequence* is a dimension of the residual stream that weight products carry along: not the
  batch, not summed, not a weight's.
* *Experts* are a dimension that weights and activations share, and that batches their product.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from autoshard.program.ir import Op, Program, Role
from autoshard.program.rule import OpClass
from autoshard.search.graph import Flow, Graph, classes_of
from autoshard.search.kinds import Kind, batch_classes, node_kinds, with_examples

Classes = frozenset[int]

_SUMS = frozenset({"add", "add_any"})
# Weight products in the shortest branch a network skips around: one into it, one out of it.
_BRANCH = 2


@dataclass(frozen=True)
class Anatomy:
    """What the parts of a program are to an expert.

    Attributes:
        kinds: per node.
        batch, sequence, experts: classes.
        residual: ids of the nodes of the residual stream.
        products: ids of the nodes of weight products, and of products that make weights' gradients.
    """

    kinds: tuple[Kind, ...]
    batch: Classes
    sequence: Classes
    experts: Classes
    residual: frozenset[int]
    products: frozenset[int]


def anatomy_of(graph: Graph) -> Anatomy:
    """Find all of it. Nearly linear in the program."""
    batch = batch_classes(graph)
    examples = with_examples(graph, batch)
    kinds = node_kinds(graph, batch, examples)
    products = {
        op.id: product
        for op in graph.program.ops
        if (product := _weight_product(graph, op, batch, examples)) is not None
    }
    residual = _residual(graph, kinds, frozenset(products))
    return Anatomy(
        kinds=kinds,
        batch=batch,
        sequence=_sequence(graph, products, residual, batch),
        experts=_experts(graph, products, batch),
        residual=residual,
        products=frozenset(
            node.id
            for node in graph.nodes
            if node.own is not None
            and (node.own in products or _sums_batch(graph, node.own, batch, examples))
        ),
    )


@dataclass(frozen=True, slots=True)
class _Product:
    """The classes of a weight product."""

    activation: Classes
    weight: Classes
    result: Classes


def _sides(graph: Graph, op: Op) -> tuple[Classes, Classes, Classes]:
    """The classes of a matmul's operands and of its result."""
    classes = graph.op_classes[op.id]
    left, right, result = (
        frozenset(c for c in classes_of(classes, dims) if c is not None)
        for dims in (*op.rule.operands[:2], op.rule.results[0])
    )
    return left, right, result


def _weight_product(
    graph: Graph, op: Op, batch: Classes, examples: AbstractSet[int]
) -> _Product | None:
    if not op.rule.op_class.is_matrix or len(op.rule.operands) < 2:
        return None
    left, right, result = _sides(graph, op)
    one, other = (
        t in examples or not side.isdisjoint(batch)
        for t, side in zip(op.inputs[:2], (left, right), strict=True)
    )
    if one == other:
        return None
    return _Product(left, right, result) if one else _Product(right, left, result)


def _sums_batch(graph: Graph, op_id: int, batch: Classes, examples: AbstractSet[int]) -> bool:
    """Whether a product leaves no batch of two operands with one: a gradient of a weight."""
    op = graph.program.ops[op_id]
    if not op.rule.op_class.is_matrix or len(op.rule.operands) < 2:
        return False
    left, right, result = _sides(graph, op)
    held = all(t in examples for t in op.inputs[:2])
    if examples.isdisjoint(op.outputs) and held:
        return True
    return bool(left & right & batch) and result.isdisjoint(batch)


def _residual(graph: Graph, kinds: tuple[Kind, ...], products: frozenset[int]) -> frozenset[int]:
    branches = _branches(graph, kinds, products)
    spans = {span for found in branches.values() for span in found}

    def is_inner(span: tuple[int, int]) -> bool:
        return any(begin < span[0] and span[1] < end for begin, end in spans)

    # A skip within a branch, such as a state space model's, is no stream but part of the branch.
    stream = {node for node, found in branches.items() if not all(map(is_inner, found))}

    def is_plain(node: int) -> bool:
        n = graph.nodes[node]
        return kinds[node] is Kind.ACTIVATION and n.own is None and n.use_of is None

    # What enters or leaves the stream as it is, such as the embedded tokens, belongs to it.
    for f in graph.flows:
        if is_plain(f.src) and is_plain(f.dst) and not stream.isdisjoint((f.src, f.dst)):
            stream |= {f.src, f.dst}
    return frozenset(stream)


def _branches(
    graph: Graph, kinds: tuple[Kind, ...], products: frozenset[int]
) -> dict[int, set[tuple[int, int]]]:
    """Where branches end in a sum with what they began from.

    Returns:
        By node of the sum: how many weight products lie on the longest way from the data to the
        branch's begin, and to its end.
    """
    program = graph.program
    data = (x.tensor for x in program.inputs if x.role is Role.DATA)
    depth = {t: 0 for t in data if t is not None}
    made: dict[int, Op] = {}
    found: dict[int, set[tuple[int, int]]] = {}
    for op in program.ops:
        made.update(dict.fromkeys(op.outputs, op))
        known = [(depth[t], t) for t in op.inputs if t is not None and t in depth]
        if not known:
            continue
        end, last = max(known)
        begin, first = min(known)
        depth.update(dict.fromkeys(op.outputs, end + (op.id in products)))
        node = graph.op_node[op.id]
        if op.kind not in _SUMS or end - begin < _BRANCH or kinds[node] is not Kind.ACTIVATION:
            continue
        span = (begin, end)
        if span not in found.get(node, ()) and _begins(program, made, depth, last, first):
            found.setdefault(node, set()).add(span)
    return found


def _begins(
    program: Program, made: dict[int, Op], depth: dict[int, int], last: int, first: int
) -> bool:
    """Whether one tensor was computed from another, be it before that was scaled or cast."""
    shape = program.tensors[first].shape
    begins = _back({first}, made, lambda t: program.tensors[t].shape == shape)
    return any(t in begins for t in _back({last}, made, lambda t: depth.get(t, -1) >= depth[first]))


def _back(start: set[int], made: dict[int, Op], goes_on: Callable[[int], bool]) -> set[int]:
    """Tensors that others were computed from, as far as it goes on."""
    found, stack = set(start), list(start)
    while stack:
        op = made.get(stack.pop())
        new = {t for t in op.inputs if t is not None and goes_on(t)} - found if op else set()
        found |= new
        stack += new
    return found


def _sequence(
    graph: Graph, products: dict[int, _Product], residual: frozenset[int], batch: Classes
) -> Classes:
    carried: set[int] = set()
    for p in products.values():
        carried |= (p.activation & p.result) - p.weight - batch
    if not carried:
        return frozenset()
    name = one_name(graph)
    stream = {name[c] for node in residual for c in graph.nodes[node].classes}
    wanted = stream & {name[c] for c in carried}
    return frozenset(c for c, group in name.items() if group in wanted)


def _experts(graph: Graph, products: dict[int, _Product], batch: Classes) -> Classes:
    ops = graph.program.ops
    seeds: set[int] = set()
    for op_id, p in products.items():
        if ops[op_id].rule.op_class is OpClass.MATMUL:
            seeds |= (p.activation & p.weight & p.result) - batch
    if not seeds:
        return frozenset()
    # In a product that experts do not batch, tokens are dispatched to them or combined again:
    # there the dimension that weights share with activations ends.
    batches: dict[int, Classes] = {}
    for node in graph.nodes:
        if node.own is not None and ops[node.own].rule.op_class.is_matrix:
            left, right, result = _sides(graph, ops[node.own])
            batches[node.id] = left & right & result

    def goes_on(flow: Flow, src: int, dst: int) -> bool:
        return (flow.src not in batches or src in batches[flow.src]) and (
            flow.dst not in batches or dst in batches[flow.dst]
        )

    name = one_name(graph, goes_on)
    wanted = {name[c] for c in seeds}
    return frozenset(c for c, group in name.items() if group in wanted)


def one_name(
    graph: Graph, goes_on: Callable[[Flow, int, int], bool] = lambda flow, src, dst: True
) -> dict[int, int]:
    """One name for every class and all it becomes along flows, where it goes on in them."""
    name = {c: c for c in graph.size}

    def find(c: int) -> int:
        while name[c] != c:
            name[c] = name[name[c]]
            c = name[c]
        return c

    for f in graph.flows:
        if f.into == "new state":
            continue
        for a, b in zip(f.src_dims, f.dst_dims, strict=True):
            if a is not None and b is not None and goes_on(f, a, b):
                name[find(b)] = find(a)
    return {c: find(c) for c in name}
