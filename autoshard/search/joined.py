"""Partial sums that are added up before they are sent.

The gradients of queries, keys and values with respect to what all three were made from are three
partial sums, added. Compilers for TPU and GPU add the parts first and send the total once
(`AllReduceReassociate` and `ReduceScatterReassociate` of XLA; both seen in compiled programs), so
the three share one reshard. A transpose on the way changes nothing: it is how the matmul's result
is read.

A loop that only adds a partial sum to what it carries, as a backward pass does with the gradient of
what all layers share, is sent after its last round by some (`WhileLoopAllReduceCodeMotion`).
"""

from __future__ import annotations

from dataclasses import dataclass

from autoshard.program.ir import Op, Program
from autoshard.search.graph import Graph

_SUMS = frozenset({"add", "add_any"})
# What a sum may pass through on its way to a loop's carry, as long as it keeps all elements.
_PASSED = frozenset({"transpose", "convert_element_type", "reshape", "squeeze", "reduce_sum"})

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A partial sum that is added to others.

    Attributes:
        flow: index of the flow that it is.
        order: per dimension of the total, the dimension of the flow's tensor.
    """

    flow: int
    order: Order


def joined_sums(graph: Graph, of_lookups: bool = True) -> tuple[tuple[Part, ...], ...]:
    """Groups of flows whose partial sums meet in additions and go nowhere else.

    Args:
        graph: whose flows.
        of_lookups: whether partial sums of scatters count, beside those of matmuls.
    """
    program = graph.program
    readers = _readers(program)
    # By tensor that is a sum of partial sums alone: its parts.
    pending: dict[int, tuple[Part, ...]] = {
        f.tensor: (Part(i, tuple(range(len(f.dst_dims)))),)
        for i, f in enumerate(graph.flows)
        if f.partial and (of_lookups or program.ops[f.at].rule.op_class.is_matrix)
    }
    inner: set[int] = set()
    for op in program.ops:
        parts = [pending[t] for t in op.inputs if t in pending and readers[t] == 1]
        if op.kind in _SUMS and len(parts) == 2:
            pending[op.outputs[0]] = parts[0] + parts[1]
        elif op.kind == "transpose" and parts:
            order = turned(op)
            pending[op.outputs[0]] = tuple(
                Part(p.flow, tuple(p.order[d] for d in order)) for p in parts[0]
            )
        else:
            continue
        inner.update(t for t in op.inputs if t is not None)
    return tuple(parts for t, parts in pending.items() if len(parts) > 1 and t not in inner)


def turned(transpose: Op) -> Order:
    """Per dimension of a transpose's result, the dimension of its operand."""
    source = transpose.rule.operands[0]
    return tuple(source.index(factor) for factor in transpose.rule.results[0])


def accumulated(program: Program) -> dict[int, int]:
    """Tensors that a loop only adds to what it carries -> the region around that loop."""
    readers = _readers(program)
    made = {out: op for op in program.ops for out in op.outputs}
    found: dict[int, int] = {}
    # From the outermost loop inwards is not the order of ops, but backwards is: a loop's carry
    # comes after all that is in it.
    for op in reversed(program.ops):
        if op.kind != "scan_carry":
            continue
        value, carry = op.inputs
        if value is None or carry is None:
            continue
        add = made.get(value)
        # The carry is read by the addition and by its own end.
        if add is None or add.kind not in _SUMS or carry not in add.inputs or value == carry:
            continue
        if readers[value] != 1 or readers[carry] != 2:
            continue
        outside = program.regions[op.region].parent
        # What the loop itself gives may be added to the carry of a loop around it.
        outside = found.get(op.outputs[0], outside)
        reach = [t for t in add.inputs if t is not None and t != carry]
        while reach:
            t = reach.pop()
            maker = made.get(t)
            if readers[t] != 1 or maker is None or _body(program, maker.region) != op.region:
                continue
            found[t] = outside
            if maker.kind in _SUMS or _only_renames(program, maker):
                reach += [x for x in maker.inputs if x is not None]
    return found


def _only_renames(program: Program, op: Op) -> bool:
    """Whether an op's result is its operand, written otherwise."""
    if op.kind not in _PASSED or op.inputs[0] is None:
        return False
    before, after = program.tensors[op.inputs[0]], program.tensors[op.outputs[0]]
    return before.elements == after.elements


def _body(program: Program, region: int) -> int:
    """The region that a rematerialised part of it belongs to."""
    while program.regions[region].kind == "remat":
        region = program.regions[region].parent
    return region


def _readers(program: Program) -> list[int]:
    """How many ops read each tensor; leaving the program counts."""
    readers = [0] * len(program.tensors)
    for op in program.ops:
        for t in op.inputs:
            if t is not None:
                readers[t] += 1
    for leaf in program.outputs:
        if leaf.tensor is not None:
            readers[leaf.tensor] += 1
    return readers
