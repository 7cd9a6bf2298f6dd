"""What each input is, found from data flow: parameters, optimizer state, data."""

from __future__ import annotations

from collections.abc import Sequence

from autoshard.program.ir import Op, Role


def find_roles(
    ops: Sequence[Op],
    inputs: Sequence[int],
    results: Sequence[int | None],
    aliases: Sequence[tuple[int, int]],
) -> list[Role]:
    """The role of each input.

    Inputs that come back are state. State whose value reaches an op that is no mere elementwise
    arithmetic (a matmul, a lookup, a sort) takes part in the model: a parameter. State that
    doesn't, such as Adam's moments, is optimizer state.

    Args:
        ops: in execution order.
        inputs: tensor id per input.
        results: tensor id per output, None for literals.
        aliases: (output, input) pairs of state.
    """
    state = {inp for _, inp in aliases}
    # Backwards: does a value reach a heavy op? One sweep suffices outside loops; carries feed
    # back, so sweep until nothing changes.
    reaches: set[int] = set()
    carries = [op for op in ops if op.kind in ("scan_carry", "while_carry")]
    while True:
        before = len(reaches)
        for op in reversed(ops):
            heavy = not op.rule.op_class.is_light
            if heavy or any(out in reaches for out in op.outputs):
                reaches.update(t for t in op.inputs if t is not None)
        for op in carries:
            value, carry = op.inputs
            if carry in reaches and value is not None:
                reaches.add(value)
        if len(reaches) == before or not carries:
            break
    return [
        (Role.PARAMETER if tensor in reaches else Role.OPTIMIZER) if i in state else Role.DATA
        for i, tensor in enumerate(inputs)
    ]
