"""Whether a program keeps the examples of its batch apart, so that copies of it share nothing.

The batch is a dimension in which arguments begin, that no op sums over or needs whole, and that
all which the program makes of its data carries. State that carries it (a cache of keys and values)
belongs to those examples; state that no data reaches (a counter) to the copy. What is left is what
copies would have to agree on: updated parameters, running averages, gradients, losses. Where it
cannot be told apart, it counts as shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoshard.program.ir import Op, Program, Role
from autoshard.program.rule import Combiner
from autoshard.search.anatomy import one_name
from autoshard.search.graph import Dims, Graph

# What looks at all examples and adds nothing up, such as "until every one is finished".
_LOOKS = frozenset({Combiner.MAX, Combiner.MIN, Combiner.AND, Combiner.OR})


def shared(graph: Graph) -> str:
    """What copies of a program would share, in a phrase; "" where there is nothing."""
    program, part = graph.program, one_name(graph)
    begin: dict[int, str] = {}
    later: set[int] = set()
    for leaf in program.inputs:
        if leaf.tensor is None:
            continue
        for d, c in enumerate(graph.dims[leaf.tensor]):
            if c is not None and d == 0:
                begin.setdefault(part[c], leaf.path)
            elif c is not None:
                later.add(part[c])
    if not begin:
        return "no argument has a batch that can be split"
    broken = set[int]()
    for op in program.ops:
        summed = _summed(graph, part, op)
        # What other arguments have further back is summed by products with weights.
        for d in summed & set(begin) - later:
            if op.kind != "gather":
                return f"{_at(op)} sums over what {begin[d]} begins with"
        broken |= summed | _whole(graph, part, op)
    made = _of_data(program)
    outputs = [x for x in program.outputs if x.tensor in made]
    if not outputs:
        return "nothing that it returns depends on its data"
    lacking = ""
    for d in sorted(set(begin) - broken):
        without = [
            x.path
            for x in outputs
            if x.tensor is not None
            and d not in {part[c] for c in graph.dims[x.tensor] if c is not None}
        ]
        if not without:
            return ""
        lacking = lacking or f"{without[0]} does not begin with a batch of its own"
    return lacking or "an op needs the whole batch at once"


def _summed(graph: Graph, part: Mapping[int, int], op: Op) -> set[int]:
    """What an op adds (or multiplies) up."""
    factors = zip(op.rule.factors, graph.op_classes[op.id], strict=True)
    return {
        part[c]
        for f, c in factors
        if c is not None and f.combiner is not None and f.combiner not in _LOOKS
    }


def _whole(graph: Graph, part: Mapping[int, int], op: Op) -> set[int]:
    """What an op reads whole, or in an order of its own."""
    sides: Iterator[tuple[int | None, Dims]] = zip(op.inputs, op.rule.operands, strict=True)
    return {
        part[c]
        for t, dims in sides
        if t is not None
        for c, f in zip(graph.dims[t], dims, strict=True)
        if c is not None and (f is None or graph.op_classes[op.id][f] is None)
    }


def _of_data(program: Program) -> set[int]:
    """Tensors that data reaches, through state and around loops too."""
    found = {x.tensor for x in program.inputs if x.role is Role.DATA and x.tensor is not None}
    while True:
        before = len(found)
        for op in program.ops:
            # How often a `while` runs may depend on data, and with that all that leaves it.
            if op.kind.startswith("while") or not found.isdisjoint(op.inputs):
                found.update(op.outputs)
            if op.kind.endswith("_carry") and op.inputs[0] in found and op.inputs[1] is not None:
                found.add(op.inputs[1])
        for out, inp in program.aliases:
            fed = program.inputs[inp].tensor
            if program.outputs[out].tensor in found and fed is not None:
                found.add(fed)
        if len(found) == before:
            return found


def _at(op: Op) -> str:
    return f"{op.kind} at {op.source}" if op.source else op.kind
