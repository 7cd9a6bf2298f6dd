"""Which tensors of a program are ever in memory, as compilers have it.

What one fused loop makes for itself is not stored. Which ops fuse is the compiler's habit
(`habits.py`); when a stored tensor is alive is `liveness.py`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoshard.cost.habits import Habits
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


def is_large(program: Program, tensor: int, op: Op) -> bool:
    """Whether a tensor is as large as anything the op reads: no broadcast bias or scale."""
    sizes = [program.tensors[t].elements for t in op.inputs if t is not None]
    return program.tensors[tensor].elements == max(sizes, default=0)


def stored_tensors(program: Program, habits: Habits) -> list[bool]:
    """Per tensor, whether it is ever in memory on its own or under another's name."""
    rules = _Rules(program, habits)
    stored = [False] * len(program.tensors)
    for leaf in (*program.inputs, *program.outputs):
        if leaf.tensor is not None:
            stored[leaf.tensor] = True
    for t in (*(_turned(program) if habits.turns else ()), *rules.sums.values()):
        stored[t] = True
    for op in reversed(program.ops):
        for kept in rules.stored_by(op, stored):
            if kept is not None:
                stored[kept] = True
    return stored


class _Rules:
    """What every op needs, or leaves, in memory."""

    def __init__(self, program: Program, habits: Habits) -> None:
        self.program, self.habits = program, habits
        self.maker = {out: op for op in program.ops for out in op.outputs}
        self.sums = scatters_into_sums(program) if habits.scatters_into_sums else {}
        joins = habits.joins_matmuls
        self.joined_after = _joined_after(program) if joins else {}
        ends = frozenset(self.joined_after.values())
        self.joined_before = _joined_before(program, ends) if joins else frozenset()

    def stored_by(self, op: Op, stored: Sequence[bool]) -> Iterator[int | None]:
        """Tensors that are in memory because of an op.

        Args:
            op: it.
            stored: what later ops store.
        """
        habits, source = self.habits, op.inputs[0] if op.inputs else None
        if (op.kind in habits.reads_stored and not self._is_only_widened(source)) or (
            habits.reshapes_stored and self._changes_minor(op)
        ):
            yield source
        if op.kind in habits.writes_stored:
            yield from op.outputs
        if not self.sums.keys().isdisjoint(op.outputs):
            yield from (*op.inputs[1:], *op.outputs)  # the zeros are never made
        elif op.rule.op_class.is_matrix:
            yield from (t for t in op.inputs if t not in self.joined_before)
            yield from (self.joined_after.get(made, made) for made in op.outputs)
        elif shares_buffer(op):
            if any(stored[o] for o in op.outputs) or "_" in op.kind:
                yield from (t for t in op.inputs if not self._is_made_inside(op, t))
        elif not self._fuses(op):
            yield from (*op.inputs, *op.outputs)
        elif is_reduction(op):
            yield from op.outputs

    def _fuses(self, op: Op) -> bool:
        """Whether an op can be part of a loop over elements."""
        if self.habits.selects_for_scatters and _one_a_row(self.program, op):
            return op.kind != "gather"
        return op.rule.op_class is OpClass.FUSIBLE or op.kind in self.habits.reads_through

    def _is_only_widened(self, tensor: int | None) -> bool:
        return tensor in self.maker and _only_widens_or_turns(self.program, self.maker[tensor])

    def _changes_minor(self, op: Op) -> bool:
        """Whether a reshape splits or merges the last dimension that is longer than 1."""
        if op.kind != "reshape" or op.inputs[0] is None:
            return False
        before, after = (self.program.tensors[t].shape for t in (op.inputs[0], op.outputs[0]))
        return _minor(before) != _minor(after)

    def _is_made_inside(self, op: Op, tensor: int | None) -> bool:
        """Whether a loop makes what it reads itself, as it does with broadcasts.

        Bodies of loops that it was done to are called "sunk".
        """
        maker = None if tensor is None else self.maker.get(tensor)
        return op.kind in _CONSTANTS and maker is not None and maker.kind == "broadcast_in_dim"


def scatters_into_sums(program: Program) -> dict[int, int]:
    """Results of scatters into zeros that are then added to something -> that something.

    Compilers scatter into it instead (XLA's algebraic simplifier).
    """
    made = {out: op for op in program.ops for out in op.outputs}
    uses = program.uses()
    found: dict[int, int] = {}
    for op in program.ops:
        if op.kind != "scatter-add" or op.inputs[0] is None:
            continue
        zeros, out = made.get(op.inputs[0]), op.outputs[0]
        if zeros is None or zeros.kind != "broadcast_in_dim" or len(uses[out]) != 1:
            continue
        add, _ = uses[out][0]
        if add.kind not in ("add", "add_any") or add.region != op.region:
            continue
        for t in add.inputs:
            if t is not None and t != out and t in made and made[t].id < op.id:
                found[out] = t
    return found


def _minor(shape: tuple[int, ...]) -> int:
    """The size of the last dimension that is longer than 1."""
    return next((n for n in reversed(shape) if n > 1), 1)


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


def picks_rows(op: Op) -> bool:
    """Whether a lookup or scatter picks places in outer dimensions, with all of the last one."""
    if op.kind != "gather" and not op.kind.startswith("scatter"):
        return False
    moved = op.rule.results[0] if op.kind == "gather" else op.rule.operands[2]
    array = op.rule.operands[0]
    return len(array) > 1 and array[-1] is not None and array[-1] in moved


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
            if t is not None and t in orders and is_large(program, t, op)
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
    """Whether an op's result is its operand in a wider type, or in another order of dimensions."""
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
            readable[t] for t in inputs if is_large(program, t, op)
        )
        for o in op.outputs:
            if o in ends:
                continue
            readable[o], awaits[o] = easy, waits
            if easy:
                found.add(o)
    return frozenset(found)
