"""When each tensor occupies memory, and which tensors never do.

Time is the op's position in the program. XLA fuses chains of elementwise ops into one loop, so a
fusible op's result is stored only if something that is no such loop reads it; until then its
inputs stay alive in its place. Lookups, slices and pads join the loop that makes what they read.
Reshapes and region boundaries share their operand's buffer. An op whose operand dies with it
writes its result into the operand's buffer if they are the same size: scatters and elementwise
loops do (XLA's buffer assignment, "must/may alias").
A tensor read inside a loop lives until the loop ends, because the next round reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoshard.program.ir import Op, Program
from autoshard.program.rule import FactorKind, OpClass

# Boundaries that write a buffer of their own; the others rename their operand's.
_OWN_BUFFER = frozenset({"scan_xs", "scan_ys"})
# Ops of class MOVE that read through whatever computes their operands: XLA's loop fusions.
_READS_THROUGH = frozenset(
    {"gather", "slice", "dynamic_slice", "pad", "concatenate", "rev", "split", "tile"}
)
# Ops that write into their first operand where they can.
_IN_PLACE_PREFIXES = ("scatter", "dynamic_update_slice")
# How far to look through fused producers for a buffer to reuse.
_REUSE_SEARCH = 64


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A stored tensor: in memory from op `start` to op `end`, both included."""

    tensor: int
    start: int
    end: int


@dataclass(frozen=True)
class Liveness:
    """Storage of a program's tensors.

    Attributes:
        lifetimes: per tensor id, None for tensors that are never stored on their own.
        buffer: per tensor id, the tensor whose buffer it shares (itself, mostly).
    """

    lifetimes: tuple[Lifetime | None, ...]
    buffer: tuple[int, ...]

    def is_stored(self, tensor: int) -> bool:
        return self.lifetimes[tensor] is not None


def shares_buffer(op: Op) -> bool:
    """Whether the op's result is its first operand's buffer under another name."""
    return (
        op.rule.op_class is OpClass.FREE
        and op.pinned is None
        and op.kind not in _OWN_BUFFER
        and any(t is not None for t in op.inputs)
    )


def is_reduction(op: Op) -> bool:
    """Whether the op sums (or the like) over a dimension."""
    return any(f.kind is FactorKind.REDUCTION for f in op.rule.factors)


def liveness(program: Program) -> Liveness:
    """Compute storage and lifetimes; linear in the size of the program."""
    n = len(program.tensors)
    n_ops = len(program.ops)
    buffer = list(range(n))
    for op in program.ops:
        if shares_buffer(op):
            source = op.inputs[1] if op.kind.endswith("_carry") else op.inputs[0]
            if source is not None:
                for out in op.outputs:
                    buffer[out] = buffer[source]

    stored = _stored(program)
    span_start, span_end = _region_spans(program)
    depth_path = _region_paths(program)
    region_of = [0] * n
    start = [0] * n
    for op in program.ops:
        for out in op.outputs:
            # A loop's stacked result is allocated when the loop starts, in the region around it.
            if op.kind == "scan_ys":
                region = program.regions[op.region]
                region_of[out], start[out] = region.parent, span_start[op.region]
            elif op.kind.endswith("_carry"):
                region_of[out], start[out] = program.regions[op.region].parent, op.id
            else:
                region_of[out], start[out] = op.region, op.id

    last = [-1] * n
    for leaf in program.outputs:
        if leaf.tensor is not None:
            last[leaf.tensor] = n_ops
    for leaf in program.inputs:
        if leaf.tensor is not None and not leaf.donated:
            last[leaf.tensor] = n_ops
    for op in reversed(program.ops):
        when = op.id
        if not any(out_stored for out_stored in (stored[o] for o in op.outputs)):
            when = max([op.id, *(last[o] for o in op.outputs)])
        for tensor in op.inputs:
            if tensor is None:
                continue
            end = when
            inner = _child_towards(depth_path, region_of[tensor], op.region)
            if inner is not None:
                end = max(end, span_end[inner])
            last[tensor] = max(last[tensor], end)
    return _collect(program, stored, buffer, start, last)


def _collect(
    program: Program,
    stored: Sequence[bool],
    buffer: Sequence[int],
    start: Sequence[int],
    last: Sequence[int],
) -> Liveness:
    begin: dict[int, int] = {}
    end: dict[int, int] = {}
    for t in range(len(program.tensors)):
        if stored[t]:
            root = buffer[t]
            begin[root] = min(begin.get(root, start[t]), start[t], start[root])
            end[root] = max(end.get(root, -1), last[t], start[t])
    _reuse(program, stored, buffer, begin, end)
    lifetimes: list[Lifetime | None] = [None] * len(program.tensors)
    for root, first in begin.items():
        lifetimes[root] = Lifetime(root, first, end[root])
    return Liveness(tuple(lifetimes), tuple(buffer))


def _reuse(
    program: Program,
    stored: Sequence[bool],
    buffer: Sequence[int],
    begin: Mapping[int, int],
    end: dict[int, int],
) -> None:
    """Let results take over the buffers of operands that die with the op that makes them."""
    made_by = {out: op for op in program.ops for out in op.outputs}
    taken: set[int] = set()
    for op in program.ops:
        in_place = op.kind.startswith(_IN_PLACE_PREFIXES)
        if not in_place and op.rule.op_class is not OpClass.FUSIBLE:
            continue
        for out in op.outputs:
            new = buffer[out]
            if not stored[out] or begin[new] != op.id:
                continue
            size = program.tensors[out].size_bytes
            reach = [t for t in (op.inputs[:1] if in_place else op.inputs) if t is not None]
            for t in reach:
                old = buffer[t]
                if stored[t] and old not in taken and end.get(old) == op.id and old != new:
                    if program.tensors[old].size_bytes == size and begin[old] < op.id:
                        end[old] = op.id - 1
                        taken.add(old)
                        break
                elif not stored[t] and t in made_by and len(reach) < _REUSE_SEARCH:
                    reach += [x for x in made_by[t].inputs if x is not None and x not in reach]


def _stored(program: Program) -> list[bool]:
    stored = [False] * len(program.tensors)
    for leaf in (*program.inputs, *program.outputs):
        if leaf.tensor is not None:
            stored[leaf.tensor] = True
    for op in reversed(program.ops):
        fusible = op.rule.op_class is OpClass.FUSIBLE or op.kind in _READS_THROUGH
        if not fusible and not shares_buffer(op):
            for t in (*op.inputs, *op.outputs):
                if t is not None:
                    stored[t] = True
        elif fusible and is_reduction(op):
            for t in op.outputs:
                stored[t] = True
        elif shares_buffer(op) and (any(stored[o] for o in op.outputs) or "_" in op.kind):
            for t in op.inputs:
                if t is not None:
                    stored[t] = True
    return stored


def _region_spans(program: Program) -> tuple[list[int], list[int]]:
    """First and last op of every region, inner regions included."""
    starts, ends = [len(program.ops)] * len(program.regions), [-1] * len(program.regions)
    for op in program.ops:
        region = op.region
        while True:
            starts[region] = min(starts[region], op.id)
            ends[region] = max(ends[region], op.id)
            parent = program.regions[region].parent
            if parent == region:
                break
            region = parent
    return starts, ends


def _region_paths(program: Program) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for region in program.regions:
        above = () if region.parent == region.id else paths[region.parent]
        paths.append((*above, region.id))
    return paths


def _child_towards(paths: Sequence[tuple[int, ...]], outer: int, inner: int) -> int | None:
    """The region directly inside `outer` on the way to `inner`; None when they are the same."""
    path, depth = paths[inner], len(paths[outer])
    return path[depth] if len(path) > depth and path[depth - 1] == outer else None
