"""The optimizer's part of a step, found without names."""

from __future__ import annotations

from autoshard.program.ir import Program


def update_ops(program: Program) -> frozenset[int]:
    """Ops that compute new state elementwise from old state and gradients.

    Grown backwards from the new values of state leaves through light ops whose result has the
    leaf's own shape. It stops where shapes change, which is where gradients are made: at the
    matmuls and sums of the backward pass.
    """
    made_by = {out: op for op in program.ops for out in op.outputs}
    found: set[int] = set()
    for out, _ in program.aliases:
        root = program.outputs[out].tensor
        if root is None:
            continue
        shape = program.tensors[root].shape
        stack = [root]
        while stack:
            op = made_by.get(stack.pop())
            if op is None or op.id in found or op.region != 0:
                continue
            if not op.rule.op_class.is_light or not shape:
                continue
            same = [t is None or program.tensors[t].shape in (shape, ()) for t in op.inputs]
            if program.tensors[op.outputs[0]].shape != shape or not all(same):
                continue
            found.add(op.id)
            stack += [t for t in op.inputs if t is not None and program.tensors[t].shape == shape]
    return frozenset(found)
