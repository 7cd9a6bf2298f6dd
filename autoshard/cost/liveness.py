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
from dataclasses import dataclass, replace

from autoshard.cost.habits import PLAIN, Habits, Late
from autoshard.program.ir import Op, Program
from autoshard.program.rule import FactorKind, OpClass

# Boundaries that write a buffer of their own; the others rename their operand's.
_OWN_BUFFER = frozenset({"scan_xs", "scan_ys"})
# How values that stay the same enter a loop.
_CONSTANTS = frozenset({"scan_const", "while_const"})
# Elementwise ops that cost so little that they are done again for every reader.
_CHEAP = frozenset(
    {
        *("add", "add_any", "sub", "mul", "neg", "max", "min", "abs", "sign", "square", "copy"),
        *("select_n", "broadcast_in_dim", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
    }
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


def liveness(program: Program, habits: Habits = PLAIN) -> Liveness:
    """Compute storage and lifetimes; linear in the size of the program.

    Args:
        program: whose tensors.
        habits: of the compiler.
    """
    n = len(program.tensors)
    n_ops = len(program.ops)
    buffer = list(range(n))
    for op in program.ops:
        if shares_buffer(op):
            source = op.inputs[1] if op.kind.endswith("_carry") else op.inputs[0]
            if source is not None:
                for out in op.outputs:
                    buffer[out] = buffer[source]

    stored = _stored(program, habits)
    runs_at = _runs_at(program, stored, habits)
    span_start, span_end = _region_spans(program)
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
            if inner is not None:
                end = max(end, span_end[inner])
            last[tensor] = max(last[tensor], end)
    return _collect(program, stored, buffer, start, last)


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
        leaves = op.kind == "scan_ys"
        if op.rule.op_class.is_matrix or (not leaves and not found.isdisjoint(op.outputs)):
            found.update(t for t in op.inputs if t is not None)
        elif op.kind.endswith("_carry"):  # the next round reads it
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
                if t is not None and _is_large(program, t, op):
                    found[t] = True
    return found


def _is_large(program: Program, tensor: int, op: Op) -> bool:
    """Whether a tensor is as large as anything the op reads: no broadcast bias or scale."""
    sizes = [program.tensors[t].elements for t in op.inputs if t is not None]
    return program.tensors[tensor].elements == max(sizes, default=0)


def _stored(program: Program, habits: Habits) -> list[bool]:
    stored = [False] * len(program.tensors)
    for leaf in (*program.inputs, *program.outputs):
        if leaf.tensor is not None:
            stored[leaf.tensor] = True
    for turned in _turned(program) if habits.turns else ():
        stored[turned] = True
    joined_after = _joined_after(program) if habits.joins_matmuls else {}
    # Broadcasts that a loop reads are made inside it (`while` bodies are called "sunk" then).
    broadcasts = {o for op in program.ops if op.kind == "broadcast_in_dim" for o in op.outputs}
    ends = frozenset(joined_after.values())
    joined_before = _joined_before(program, ends) if habits.joins_matmuls else frozenset()
    for op in reversed(program.ops):
        fusible = op.rule.op_class is OpClass.FUSIBLE or op.kind in habits.reads_through
        if habits.selects_for_scatters and _one_a_row(program, op):
            fusible = op.kind != "gather"
        if op.rule.op_class.is_matrix:
            for t in op.inputs:
                if t is not None and t not in joined_before:
                    stored[t] = True
            for made in op.outputs:
                stored[joined_after.get(made, made)] = True
        elif not fusible and not shares_buffer(op):
            for t in (*op.inputs, *op.outputs):
                if t is not None:
                    stored[t] = True
        elif fusible and is_reduction(op):
            for made in op.outputs:
                stored[made] = True
        elif shares_buffer(op) and (any(stored[o] for o in op.outputs) or "_" in op.kind):
            for t in op.inputs:
                if t is not None and not (op.kind in _CONSTANTS and t in broadcasts):
                    stored[t] = True
    return stored


def _one_a_row(program: Program, op: Op) -> bool:
    """Whether a lookup takes one number of every row, or a scatter puts one there.

    That is `take_along_axis` along one dimension, and its backward pass.
    """
    scatters = op.kind.startswith("scatter")
    if not (scatters or op.kind == "gather") or op.inputs[0] is None:
        return False
    moved, dims = (
        (op.inputs[2], op.rule.operands[2]) if scatters else (op.outputs[0], op.rule.results[0])
    )
    along = {f for f in op.rule.operands[0] if f is not None} - set(dims)
    if moved is None or len(along) != 1:
        return False
    rows = program.tensors[moved].elements
    return rows * op.rule.factors[along.pop()].size == program.tensors[op.inputs[0]].elements


@dataclass(frozen=True, slots=True)
class _Order:
    """In which order the dimensions of a tensor follow each other in memory, major first.

    Attributes:
        dims: dimensions.
        made: the matmul that chose it.
        first: the first tensor after that matmul's result, on the way here.
    """

    dims: tuple[int, ...]
    made: int
    first: int | None = None


def _turned(program: Program) -> frozenset[int]:
    """Tensors written once more because an elementwise op meets them in two orders.

    Transposes are free as long as readers may read in any order. Where a matmul's result meets
    another that lies in a different order, the younger is turned, in the type that it was
    converted to.
    """
    orders: dict[int, _Order] = {}
    found: set[int] = set()
    for op in program.ops:
        if op.rule.op_class.is_matrix:
            for out in op.outputs:
                orders[out] = _Order(tuple(range(len(program.tensors[out].shape))), op.id)
            continue
        moved = op.kind == "transpose"
        if not moved and (op.rule.op_class is not OpClass.FUSIBLE or is_reduction(op)):
            continue
        met = [
            (t, orders[t], dims)
            for t, dims in zip(op.inputs, op.rule.operands, strict=True)
            if t is not None and t in orders and _is_large(program, t, op)
        ]
        out, to = op.outputs[0], op.rule.results[0]
        if not met or any(sorted(map(str, dims)) != sorted(map(str, to)) for _, _, dims in met):
            continue
        ways = [
            (replace(order, dims=tuple(to.index(dims[d]) for d in order.dims)), t)
            for t, order, dims in met
            if None not in dims
        ]
        if not ways:
            continue
        sizes = program.tensors[out].shape
        oldest = min(ways, key=lambda way: way[0].made)[0]
        for way, _ in ways:
            if _long(way.dims, sizes) != _long(oldest.dims, sizes) and way.first is not None:
                found.add(way.first)
        first = oldest.first if moved or oldest.first is not None else out
        orders[out] = replace(oldest, first=first)
    return frozenset(found)


def _long(dims: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """The dimensions that order says something about: those longer than 1."""
    return [d for d in dims if sizes[d] > 1]


def _joined_after(program: Program) -> dict[int, int]:
    """Results of matmuls -> what is stored in their place, after elementwise ops on them alone."""
    readers: list[list[Op]] = [[] for _ in program.tensors]
    for op in program.ops:
        for t in op.inputs:
            if t is not None:
                readers[t].append(op)
    kept = {leaf.tensor for leaf in program.outputs}
    made = {out: op for op in program.ops for out in op.outputs}
    found: dict[int, int] = {}
    for op in program.ops:
        if not op.rule.op_class.is_matrix:
            continue
        for out in op.outputs:
            end = out
            while len(readers[end]) == 1 and end not in kept:
                reader = readers[end][0]
                elementwise = reader.rule.op_class is OpClass.FUSIBLE and not is_reduction(reader)
                if not (elementwise or reader.kind == "transpose") or reader.region != op.region:
                    break
                if program.tensors[reader.outputs[0]].elements != program.tensors[out].elements:
                    break
                end = reader.outputs[0]
            # Readers widen and turn what they read themselves.
            while end != out and _only_widens_or_turns(program, made[end]):
                (end,) = (t for t in made[end].inputs if t is not None)
            found[out] = end
    return found


def _only_widens_or_turns(program: Program, op: Op) -> bool:
    """Whether an op's result is its operand in a wider type, or with its dimensions in another
    order.
    """
    if op.kind == "transpose":
        return True
    if op.kind != "convert_element_type" or op.inputs[0] is None:
        return False
    before, after = program.tensors[op.inputs[0]], program.tensors[op.outputs[0]]
    return before.itemsize_bytes < after.itemsize_bytes


def _joined_before(program: Program, ends: frozenset[int]) -> frozenset[int]:
    """Tensors that a matmul computes as it reads them, from what is stored anyway.

    Cheap ops always; others where a sum over a dimension comes in between, as in a softmax or a
    norm: a matmul that makes what they read cannot do them too, and so their readers do, each anew.

    Args:
        program: whose tensors.
        ends: what is stored in the place of results of matmuls.
    """
    readable = [True] * len(program.tensors)  # stored, or made as it is read
    awaits = [False] * len(program.tensors)  # depends on a sum that the same readers depend on
    found: set[int] = set()
    for op in program.ops:
        if op.rule.op_class is not OpClass.FUSIBLE or is_reduction(op):
            first = op.inputs[0] if shares_buffer(op) else None
            for o in op.outputs:
                if first is not None:
                    readable[o], awaits[o] = readable[first], awaits[first]
                elif is_reduction(op) and op.rule.op_class is OpClass.FUSIBLE:
                    awaits[o] = True
            continue
        inputs = [t for t in op.inputs if t is not None]
        waits = any(awaits[t] for t in inputs)
        easy = (waits or op.kind in _CHEAP) and all(
            readable[t] for t in inputs if _is_large(program, t, op)
        )
        for o in op.outputs:
            if o in ends:
                continue
            readable[o], awaits[o] = easy, waits
            if easy:
                found.add(o)
    return frozenset(found)


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
