"""How many bytes of a tensor travel."""

from __future__ import annotations

from collections import defaultdict

from autoshard.program.ir import Op, Program
from autoshard.search.graph import Flow

_CONVERT = "convert_element_type"


class Wire:
    """Bytes of tensors as they travel.

    XLA moves a value in the narrowest type there is on its way: before it is widened, and after it
    is narrowed by all who read it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._made = {out: op for op in program.ops for out in op.outputs}
        self._converted: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for op in program.ops:
            for t in op.inputs:
                if t is not None:
                    to = op.outputs[0] if self.narrows(op, t) else t
                    self._converted[t].append((op.id, program.tensors[to].size_bytes))

    def narrows(self, op: Op, tensor: int) -> bool:
        """Whether an op reads a tensor only to convert it to a narrower type."""
        if op.kind != _CONVERT or op.inputs != (tensor,):
            return False
        return (
            self.program.tensors[op.outputs[0]].size_bytes < self.program.tensors[tensor].size_bytes
        )

    def size_bytes(self, flow: Flow) -> float:
        """Of the whole tensor of a flow."""
        size = self.program.tensors[flow.tensor].size_bytes
        if flow.partial:
            return size
        op = self._made.get(flow.tensor)
        if op is not None and op.kind == _CONVERT and op.inputs[0] is not None:
            size = min(size, self.program.tensors[op.inputs[0]].size_bytes)
        return min(size, max(self._read(flow), default=size))

    def is_converted(self, flow: Flow) -> bool:
        """Whether nobody reads a flow's tensor but to convert it to a narrower type."""
        read = self._read(flow)
        return bool(read) and max(read) < self.program.tensors[flow.tensor].size_bytes

    def _read(self, flow: Flow) -> list[float]:
        """Bytes that the readers of a flow make of its tensor."""
        return [n for at, n in self._converted[flow.tensor] if flow.at <= at <= flow.end]
