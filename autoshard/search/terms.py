"""What a program's layouts cost, as a list of terms before any mesh, equal terms under one form.

An unrolled model says each of its layers' terms again and again, and so do the meshes. A *form* is
all that a term's numbers depend on beside the mesh: the sizes of the classes of its nodes, what
splitting each of them does to the tensor, bytes, how often. It is priced once for a mesh
(`build.py`), by an example, however many terms have it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, TypeVar

from autoshard.cost.habits import habits_of
from autoshard.cost.liveness import region_spans
from autoshard.cost.overlap import Beside
from autoshard.cost.reshard import PARTIAL, WHOLE, on
from autoshard.cost.storage import picks_rows
from autoshard.program.ir import Op
from autoshard.program.rule import Combiner, OpClass
from autoshard.search.graph import Dims, Flow, Graph, Sum, classes_of

if TYPE_CHECKING:
    from autoshard.search.analysis import Analysis

Classes = frozenset[int]
T = TypeVar("T")

# Reads of one stored tensor by elementwise ops this close together (in ops) are one fused read.
_FUSION_DISTANCE = 50
# Elementwise ops of one node this close together (in ops) run as one loop, started once.
_LOOP_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Loop:
    """Elementwise ops that run as one loop over what is stored.

    Attributes:
        node: that they run under.
        parts: bytes of the whole tensors that are read and written, by the classes that cut them.
        times: per step.
    """

    node: int
    parts: tuple[tuple[Classes, float], ...]
    times: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that occupies memory.

    Attributes:
        node, tensor: ids.
    """

    node: int
    tensor: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Copies of an array with its rows along the lanes, for an op that picks rows.

    Attributes:
        op: a lookup, or a scatter of rows.
        copies: how many are there at once.
    """

    op: Op
    copies: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A tensor that passes between nodes.

    Attributes:
        flow: that it is.
        near: what runs beside its reshard.
        joined: how many partial sums are sent as one with it, it among them.
    """

    flow: Flow
    near: Beside
    joined: int


@dataclass(frozen=True, slots=True)
class Apart:
    """Two of several partial sums that are sent as one as long as all are pending.

    Attributes:
        one, other: the flows.
        joined: how many there are.
    """

    one: Flow
    other: Flow
    joined: int


@dataclass(frozen=True, slots=True)
class Turned:
    """A copy of what a loop reads slices of, in another order of dimensions.

    Attributes:
        flow: of a slice, inside the loop.
        stacked: what it is a slice of.
        gathered: whether it is made where the slice is gathered, or where it is read as it is.
    """

    flow: Flow
    stacked: int
    gathered: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """See the module's docstring. Forms are numbered; examples lie at their form's number.

    Attributes:
        own: seconds by one node's layout, as (node, form).
        own_forms: their examples: an op of its own, a loop, a sum, a copy for rows.
        stored: bytes by one node's layout, as (node, form, first op, last op); the
            program's lifetimes first, in their order.
        stored_forms: their examples.
        sent: seconds and bytes by two nodes' layouts, as (source, destination, form, first op at
            which a copy is there, last op); the graph's flows first, in their order.
        sent_forms: their examples.
    """

    own: tuple[tuple[int, int], ...]
    own_forms: tuple[Op | Loop | Sum | Rows, ...]
    stored: tuple[tuple[int, int, int, int], ...]
    stored_forms: tuple[Stored | Rows, ...]
    sent: tuple[tuple[int, int, int, int, int], ...]
    sent_forms: tuple[Sent | Apart | Turned, ...]


@dataclass(frozen=True)
class _Forms(Generic[T]):
    """Forms seen so far, by what tells them apart."""

    known: dict[Hashable, int] = field(default_factory=dict)
    examples: list[T] = field(default_factory=list)

    def of(self, key: Hashable, example: T) -> int:
        """The form of a term with this key; the first such term is its example."""
        found = self.known.setdefault(key, len(self.examples))
        if found == len(self.examples):
            self.examples.append(example)
        return found


def terms_of(
    analysis: Analysis, platform: str, near: Sequence[Beside], classes: Sequence[tuple[int, ...]]
) -> Terms:
    """List the terms.

    Args:
        analysis: of the program.
        platform: of the compiler.
        near: per flow, what runs beside it.
        classes: per node, those that may be split.
    """
    return _Lister(analysis, platform, near, classes).terms()


class _Lister:
    def __init__(
        self,
        analysis: Analysis,
        platform: str,
        near: Sequence[Beside],
        classes: Sequence[tuple[int, ...]],
    ) -> None:
        self.analysis, self.platform, self.near = analysis, platform, near
        self.graph: Graph = analysis.graph
        self.program = analysis.program
        self.live = analysis.live_on(platform)
        self.classes = classes
        # Per node: the sizes of its classes, with what may split them; and the place of each.
        self.sizes: list[Hashable] = [
            (node.taken, *(self.graph.size[c] for c in held))
            for node, held in zip(self.graph.nodes, classes, strict=True)
        ]
        self.place = [{c: k for k, c in enumerate(held)} for held in classes]
        self.own: list[tuple[int, int]] = []
        self.own_forms = _Forms[Op | Loop | Sum | Rows]()
        self.stored: list[tuple[int, int, int, int]] = []
        self.stored_forms = _Forms[Stored | Rows]()
        self.sent: list[tuple[int, int, int, int, int]] = []
        self.sent_forms = _Forms[Sent | Apart | Turned]()

    def terms(self) -> Terms:
        self._ops()
        self._loops()
        self._sums()
        self._storage()
        self._rows()
        self._flows()
        self._turned()
        return Terms(
            tuple(self.own),
            tuple(self.own_forms.examples),
            tuple(self.stored),
            tuple(self.stored_forms.examples),
            tuple(self.sent),
            tuple(self.sent_forms.examples),
        )

    def _places(self, node: int, dims: Dims) -> tuple[int | None, ...]:
        """Where in a node's classes those of some dimensions are; None where nothing can split."""
        place = self.place[node]
        return tuple(None if c is None else place.get(c) for c in dims)

    def _effect(
        self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]] = ()
    ) -> tuple[int, ...]:
        """What splitting each class of a node does to a tensor, as `cost.reshard` has it."""
        summed = {c for c, _ in partial}
        split = {c: on(d) for d, c in enumerate(dims) if c is not None}
        return tuple([split.get(c, PARTIAL if c in summed else WHOLE) for c in self.classes[node]])

    def _ops(self) -> None:
        """Ops that have a node of their own."""
        tensors = self.program.tensors
        for node in self.graph.nodes:
            if node.own is None:
                continue
            op = self.program.ops[node.own]
            if op.rule.op_class.is_light:
                continue
            key = (
                op.rule,
                self.sizes[node.id],
                self._places(node.id, self.graph.op_classes[op.id]),
                tuple(
                    (tensors[t].dtype, tensors[t].shape) if t is not None else None
                    for t in (*op.inputs, *op.outputs)
                ),
                self.program.times(op.region),
            )
            self.own.append((node.id, self.own_forms.of(key, op)))

    def _loops(self) -> None:
        """Memory traffic of elementwise ops, which run as loops over what is stored."""
        moved: dict[tuple[int, int, int], dict[Classes, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        last_read: dict[tuple[int, int], int] = {}
        begun: dict[tuple[int, int], tuple[int, int]] = {}  # (node, region) -> (loop, its last op)
        for op in self.program.ops:
            if op.rule.op_class is not OpClass.FUSIBLE:
                continue
            node = self.graph.op_node[op.id]
            classes = self.graph.op_classes[op.id]
            here: list[tuple[int, tuple[int | None, ...]]] = []
            for out, dims in zip(op.outputs, op.rule.results, strict=True):
                if self.live.is_stored(self.live.buffer[out]) and self.live.buffer[out] == out:
                    here.append((out, dims))
            for t, dims in zip(op.inputs, op.rule.operands, strict=True):
                if t is None or not self.live.is_stored(self.live.buffer[t]):
                    continue
                key = (t, op.region)
                if op.id - last_read.get(key, -_FUSION_DISTANCE - 1) > _FUSION_DISTANCE:
                    # Of what it slices at a place that is known when it runs, it reads the slice.
                    sliced = op.kind == "dynamic_slice"
                    here.append((op.outputs[0], op.rule.results[0]) if sliced else (t, dims))
                last_read[key] = op.id
            if not here:
                continue
            loop, last = begun.get((node, op.region), (op.id, op.id))
            if op.id - last > _LOOP_LENGTH:
                loop = op.id
            begun[node, op.region] = (loop, op.id)
            for t, dims in here:
                cut = frozenset(c for c in classes_of(classes, dims) if c is not None)
                moved[node, op.region, loop][cut] += self.program.tensors[t].size_bytes
        for (node, region, _), parts in moved.items():
            found = Loop(node, tuple(parts.items()), self.program.times(region))
            place = self.place[node]
            told = tuple(
                (frozenset([place[c] for c in cut if c in place]), size)
                for cut, size in found.parts
            )
            form = self.own_forms.of((self.sizes[node], told, found.times), found)
            self.own.append((node, form))

    def _sums(self) -> None:
        """Sums inside nodes."""
        for made in self.graph.sums:
            region = self.program.ops[made.op].region
            key = (
                "sum",
                self.sizes[made.node],
                self._effect(made.node, made.dims, made.partial),
                self.program.tensors[made.tensor].size_bytes,
                self.analysis.sum_times(made.tensor, region, self.platform),
            )
            self.own.append((made.node, self.own_forms.of(key, made)))

    def _storage(self) -> None:
        for life in self.live.lifetimes:
            if life is None:
                continue
            node = self.graph.node_of[life.tensor]
            t = self.program.tensors[life.tensor]
            places = self._places(node, self.graph.dims[life.tensor])
            found = Stored(node, life.tensor)
            form = self.stored_forms.of(
                (self.sizes[node], places, t.shape, t.itemsize_bytes, t.size_bytes),
                found,
            )
            self.stored.append((node, form, life.start, life.end))

    def _rows(self) -> None:
        """Tables, their gradients, and what the optimizer updates with these in the same order.

        The optimizer reads the copy that the lookup read, and of moments one table's at a time.
        """
        if not habits_of(self.platform).rows_on_lanes:
            return
        for op in self.program.ops:
            if not picks_rows(op) or (array := op.inputs[0]) is None:
                continue
            node, t = self.graph.op_node[op.id], self.program.tensors[array]
            classes = self.graph.op_classes[op.id]
            rows = Rows(op, 1 if op.kind == "gather" else 2)
            key = (
                "rows",
                self.sizes[node],
                self._places(node, classes_of(classes, op.rule.operands[0])),
                (t.shape, t.itemsize_bytes, rows.copies),
                self.program.times(op.region),
            )
            kept = op.region == 0 and (rows.copies > 1 or array in self._arguments)
            end = len(self.program.ops) if kept else op.id
            self.own.append((node, self.own_forms.of(key, rows)))
            self.stored.append((node, self.stored_forms.of(key, rows), op.id, end))

    def _flows(self) -> None:
        analysis, wire = self.analysis, self.analysis.wire
        groups = analysis.joined_on(self.platform)
        for i, (flow, near) in enumerate(zip(self.graph.flows, self.near, strict=True)):
            found = Sent(flow, near, len(groups.get(i, (i,))))
            key: tuple[Hashable, ...] = (
                *self._ends(flow),
                wire.size_bytes(flow),
                wire.is_converted(flow),
                flow.into == "result",
                bool(flow.partial),
                (near.budget_s, near.windowed, near.latency_part),
                found.joined,
                self.program.times(flow.region),
                analysis.sum_times(flow.tensor, flow.region, self.platform),
            )
            form = self.sent_forms.of(key, found)
            self.sent.append((flow.src, flow.dst, form, flow.at, flow.end))
        for group in dict.fromkeys(groups.values()):
            flows = [self.graph.flows[part.flow] for part in group]
            for one, other in pairwise(flows):
                apart = Apart(one, other, len(group))
                key = (
                    "apart",
                    *self._source(one),
                    *self._source(other),
                    apart.joined,
                    *(self.program.tensors[f.tensor].size_bytes for f in (one, other)),
                    analysis.sum_times(one.tensor, one.region, self.platform),
                )
                form = self.sent_forms.of(key, apart)
                self.sent.append((one.src, other.src, form, one.at, one.end))

    def _turned(self) -> None:
        """Copies of what loops slice, where the compiler wants the slices in another order."""
        habits, tensors = habits_of(self.platform), self.program.tensors
        if not (habits.gathers_major or habits.turns_looked_up):
            return
        cut = {op.outputs[0]: op for op in self.program.ops if op.kind == "scan_xs"}
        for flow in self.graph.flows:
            op = cut.pop(flow.tensor, None)  # all reads of a slice share one copy
            if op is None or (stacked := op.inputs[0]) is None:
                continue
            gathered = stacked in self._arguments
            if gathered:
                # What the program makes itself is made in the right order.
                wanted, when = habits.gathers_major, self._spans[flow.region]
            else:
                wanted = habits.turns_looked_up and self._is_looked_up(flow.tensor)
                when = (op.id, op.id)
            if wanted:
                turned = Turned(flow, stacked, gathered)
                key = ("turned", *self._ends(flow), tensors[stacked].shape, gathered)
                size = (tensors[flow.tensor].shape, tensors[stacked].size_bytes)
                form = self.sent_forms.of((*key, *size), turned)
                self.sent.append((flow.src, flow.dst, form, *when))

    def _is_looked_up(self, tensor: int) -> bool:
        """Whether lookups read a tensor, and others do too."""
        kinds = {op.kind for op, k in self._uses[tensor] if k == 0}
        return "gather" in kinds and len(kinds) > 1

    @cached_property
    def _arguments(self) -> frozenset[int | None]:
        return frozenset(leaf.tensor for leaf in self.program.inputs)

    @cached_property
    def _uses(self) -> dict[int, list[tuple[Op, int]]]:
        return self.program.uses()

    @cached_property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        return region_spans(self.program)

    def _source(self, flow: Flow) -> tuple[Hashable, ...]:
        effect = self._effect(flow.src, flow.src_dims, flow.partial)
        return (self.sizes[flow.src], effect)

    def _ends(self, flow: Flow) -> tuple[Hashable, ...]:
        effect = self._effect(flow.dst, flow.dst_dims)
        return (*self._source(flow), self.sizes[flow.dst], effect)
