"""How many bytes of a tensor travel."""

from __future__ import annotations

from collections import defaultdict

from autoshard.program.ir import Op, Program
from autoshard.search.graph import Flow

_CONVERT = "convert_element_type"

# Types, and those that hold every number of theirs: there and back is exact.
_WIDER = {
    "float8_e4m3fn": ("bfloat16", "float16", "float32"),
    "float8_e5m2": ("bfloat16", "float16", "float32"),
    "bfloat16": ("float32", "float64"),
    "float16": ("float32", "float64"),
    "float32": ("float64",),
}


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
        if (before := self._converted_from(flow)) is not None:
            size = min(size, self.program.tensors[before].size_bytes)
        return min(size, max(self._read(flow), default=size))

    def widened_from(self, flow: Flow) -> str:
        """The type that a flow's tensor was widened from and can be sent in; "" if there is none.

        XLA is told so: left to itself it sends now and then what is wide (libtpu 0.0.52).
        """
        before = self._converted_from(flow)
        if before is None or flow.partial:
            return ""
        narrow, wide = (self.program.tensors[t].dtype for t in (before, flow.tensor))
        return narrow if wide in _WIDER.get(narrow, ()) else ""

    def _converted_from(self, flow: Flow) -> int | None:
        """The tensor that a flow's is converted from, if it is."""
        op = self._made.get(flow.tensor)
        return op.inputs[0] if op is not None and op.kind == _CONVERT else None

    def is_converted(self, flow: Flow) -> bool:
        """Whether nobody reads a flow's tensor but to convert it to a narrower type."""
        read = self._read(flow)
        return bool(read) and max(read) < self.program.tensors[flow.tensor].size_bytes

    def _read(self, flow: Flow) -> list[float]:
        """Bytes that the readers of a flow make of its tensor."""
        return [n for at, n in self._converted[flow.tensor] if flow.at <= at <= flow.end]
