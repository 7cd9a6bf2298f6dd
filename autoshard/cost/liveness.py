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

from autoshard.cost.habits import PLAIN, Habits, Late
from autoshard.cost.storage import (
    is_large,
    is_reduction,
    scatters_into_sums,
    shares_buffer,
    stored_tensors,
)
from autoshard.program.ir import Op, Program
from autoshard.program.rule import OpClass

# Ops that write into their first operand where they can.
_IN_PLACE_PREFIXES = ("scatter", "dynamic_update_slice")
# Entry to, and exit from, code that is written for one shard.
_MANUAL = frozenset({"manual_in", "manual_out"})
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


def liveness(program: Program, habits: Habits = PLAIN) -> Liveness:
    """Compute storage and lifetimes; linear in the size of the program.

    Args:
        program: whose tensors.
        habits: of the compiler.
    """
    n = len(program.tensors)
    n_ops = len(program.ops)
    stored = stored_tensors(program, habits)
    buffer = _buffers(program, stored)
    for value, carry in _updated_in_place(program).items():
        buffer[value] = buffer[carry]
    for out, operand in scatters_into_sums(program).items() if habits.scatters_into_sums else ():
        buffer[out] = buffer[operand]
    runs_at = _runs_at(program, stored, habits)
    span_start, span_end = zip(*region_spans(program), strict=True)
    depth_path = _region_paths(program)
    free_from = _free_from(program, span_start, span_end) if habits.early_buffers else span_start
    region_of = [0] * n
    start = [0] * n
    for op in program.ops:
        for out in op.outputs:
            # A loop's stacked result is allocated when the loop starts, in the region around it.
            if op.kind == "scan_ys":
                region = program.regions[op.region]
                region_of[out], start[out] = region.parent, free_from[op.region]
            elif op.kind.endswith("_carry"):
                region_of[out], start[out] = program.regions[op.region].parent, op.id
            elif op.kind in _MANUAL and buffer[out] == out:
                # Its operand gives way to it.
                region_of[out], start[out] = op.region, op.id + 1
            else:
                region_of[out], start[out] = op.region, runs_at[op.id]

    last = [-1] * n
    for leaf in program.outputs:
        if leaf.tensor is not None:
            last[leaf.tensor] = n_ops
    for leaf in program.inputs:
        if leaf.tensor is not None and not leaf.donated:
            last[leaf.tensor] = n_ops
    for op in reversed(program.ops):
        when = runs_at[op.id]
        if not any(out_stored for out_stored in (stored[o] for o in op.outputs)):
            when = max([op.id, *(last[o] for o in op.outputs)])
        for tensor in op.inputs:
            if tensor is None:
                continue
            end = when
            inner = _child_towards(depth_path, region_of[tensor], op.region)
            if inner is not None and op.kind not in _MANUAL:  # which is read once
                end = max(end, span_end[inner])
            last[tensor] = max(last[tensor], end)
    return _collect(program, stored, buffer, start, last)


def _buffers(program: Program, stored: Sequence[bool]) -> list[int]:
    """Per tensor, the one whose buffer it has under another name; itself, mostly.

    What enters or leaves code for one shard may be laid out anew there. If nothing else reads it as
    it was, only the new one is left.
    """
    buffer = list(range(len(program.tensors)))
    last_read = _last_reads(program)
    for op in program.ops:
        if not shares_buffer(op):
            continue
        source = op.inputs[1] if op.kind.endswith("_carry") else op.inputs[0]
        if source is None:
            continue
        root = buffer[source]
        if op.kind in _MANUAL and last_read[root] <= op.id and all(stored[o] for o in op.outputs):
            continue
        for out in op.outputs:
            buffer[out] = root
            last_read[root] = max(last_read[root], last_read[out])
    return buffer


def _last_reads(program: Program) -> list[int]:
    """Per tensor, the last op that reads it; past all of them for what the caller keeps."""
    found = [-1] * len(program.tensors)
    for op in program.ops:
        for t in op.inputs:
            if t is not None:
                found[t] = op.id
    kept = [*program.outputs, *(leaf for leaf in program.inputs if not leaf.donated)]
    for leaf in kept:
        if leaf.tensor is not None:
            found[leaf.tensor] = len(program.ops)
    return found


def _updated_in_place(program: Program) -> dict[int, int]:
    """What a loop carries on that is its carry with a part written anew -> that carry.

    Nothing reads the old one afterwards, so both are one buffer.
    """
    made = {out: op for op in program.ops for out in op.outputs}
    last_read: dict[int, int] = {}
    for op in program.ops:
        if not op.kind.endswith("_carry"):
            last_read.update((t, op.id) for t in op.inputs if t is not None)
    found: dict[int, int] = {}
    for op in program.ops:
        if not op.kind.endswith("_carry") or op.inputs[0] is None or op.inputs[1] is None:
            continue
        value, carry = op.inputs[0], op.inputs[1]
        maker = made.get(value)
        in_place = maker is not None and maker.kind.startswith(_IN_PLACE_PREFIXES)
        if maker and in_place and maker.inputs[0] == carry and last_read[carry] == maker.id:
            found[value] = carry
    return found


def _runs_at(program: Program, stored: Sequence[bool], habits: Habits) -> list[int]:
    """When every op runs: at its place, or, late matmuls, just before its result is read."""
    runs_at = [op.id for op in program.ops]
    if habits.late_matmuls is Late.NONE:
        return runs_at
    follows = _before_matmuls(program) if habits.late_matmuls is Late.LAST else frozenset()
    n_ops = len(program.ops)
    wanted = [n_ops] * len(program.tensors)  # when the first op runs that reads a tensor
    for op in reversed(program.ops):
        results = min((wanted[o] for o in op.outputs), default=n_ops)
        elsewhere = not any(stored[o] for o in op.outputs) or shares_buffer(op)
        waits = op.rule.op_class.is_matrix and follows.isdisjoint(op.outputs)
        if waits and results < n_ops:
            runs_at[op.id] = max(op.id, results - 1)
        passes_on = elsewhere and not _is_boundary(op) and results < n_ops
        when = results if passes_on else runs_at[op.id]
        for t in op.inputs:
            if t is not None:
                wanted[t] = min(wanted[t], when)
    return runs_at


def _before_matmuls(program: Program) -> frozenset[int]:
    """Tensors that a matmul reads, or what is made of them without leaving the round of a loop."""
    found: set[int] = set()
    for op in reversed(program.ops):
        goes_on = op.kind != "scan_ys" and not found.isdisjoint(op.outputs)
        next_round = op.kind.endswith("_carry")  # which may have matmuls that read it
        if op.rule.op_class.is_matrix or goes_on or next_round:
            found.update(t for t in op.inputs if t is not None)
    return frozenset(found)


def _is_boundary(op: Op) -> bool:
    """Whether an op stands for the entry or the exit of a region."""
    return bool(op.in_places)


def _free_from(program: Program, span_start: Sequence[int], span_end: Sequence[int]) -> list[int]:
    """Per loop, when the loop before it in the same region ends; its region's start if none does.

    Buffers that a loop fills wait for nothing, and compilers that schedule for latency make them
    as soon as there is room for them.
    """
    loops = sorted(
        (r.id for r in program.regions if r.kind in ("scan", "while")), key=lambda r: span_start[r]
    )
    free_from = list(span_start)
    for k, r in enumerate(loops):
        parent = program.regions[r].parent
        ends = [span_end[q] for q in loops[:k] if program.regions[q].parent == parent]
        before = max((e for e in ends if e < span_start[r]), default=span_start[parent] - 1)
        free_from[r] = before + 1
    return free_from


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
    summed = _summed(program, stored)
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
                    # What is summed up first and read again after cannot be overwritten as read.
                    if summed[t] and not in_place:
                        continue
                    if program.tensors[old].size_bytes == size and begin[old] < op.id:
                        end[old] = op.id - 1
                        taken.add(old)
                        break
                elif not stored[t] and t in made_by and len(reach) < _REUSE_SEARCH:
                    reach += [x for x in made_by[t].inputs if x is not None and x not in reach]


def _summed(program: Program, stored: Sequence[bool]) -> list[bool]:
    """Whether a tensor is read, through what is not stored, by an op that sums it up."""
    found = [False] * len(program.tensors)
    for op in reversed(program.ops):
        if op.rule.op_class is not OpClass.FUSIBLE and not shares_buffer(op):
            continue
        through = any(found[o] and not stored[o] for o in op.outputs)
        if is_reduction(op) or through:
            for t in op.inputs:
                if t is not None and is_large(program, t, op):
                    found[t] = True
    return found


def region_spans(program: Program) -> tuple[tuple[int, int], ...]:
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
    return tuple(zip(starts, ends, strict=True))


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
