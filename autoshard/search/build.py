"""Program x machine x mesh -> numbers: the costs and bytes of every option and pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoshard.cost.collectives import collective_time_s
from autoshard.cost.compute import Product, matmul_time_s, memory_time_s, product_utilisation
from autoshard.cost.habits import habits_of
from autoshard.cost.overlap import Beside, added_s
from autoshard.cost.padding import padded_elements, row_major_elements
from autoshard.cost.reshard import (
    PARTIAL,
    WHOLE,
    Ints,
    Reshards,
    Routes,
    gathers_inner,
    local_bytes,
    only_finishes,
    priced,
    routes,
)
from autoshard.machine.model import LogicalMesh, Machine
from autoshard.program.ir import Op
from autoshard.program.rule import OpClass
from autoshard.rules.manual import sent_as
from autoshard.search.analysis import Analysis
from autoshard.search.gather import Prices, gathered
from autoshard.search.graph import Dims, Flow, Sum, classes_of
from autoshard.search.kinds import Kind
from autoshard.search.layouts import Layouts, enumerate_layouts
from autoshard.search.problem import Problem
from autoshard.search.terms import Apart, Classes, Loop, Rows, Sent, Stored, Terms, Turned
from autoshard.search.tie import Tied, leaders

Floats = NDArray[np.float64]

_NOTHING = np.zeros(1)
# An array lies across the lanes where lying along them takes more than so many times the room.
_TURNED_FROM = 1.1

__all__ = ["Analysis", "Look", "MeshProblem", "build_problem"]


@dataclass(frozen=True, slots=True)
class Look:
    """What an expert sees of a node.

    Attributes:
        kind: what it holds.
        residual: whether it is the residual stream.
        product: whether it is a product with weights.
        batch, sequence, experts: which of its classes are these.
    """

    kind: Kind
    residual: bool
    product: bool
    batch: tuple[bool, ...]
    sequence: tuple[bool, ...]
    experts: tuple[bool, ...]


@dataclass(frozen=True)
class MeshProblem:
    """The numbers for one mesh, and what they mean.

    Attributes:
        beside: per flow, what runs beside its reshard.
    """

    analysis: Analysis
    machine: Machine
    layouts: Layouts
    limit_bytes: float
    beside: tuple[Beside, ...]

    @property
    def mesh(self) -> LogicalMesh:
        return self.layouts.mesh

    @cached_property
    def problem(self) -> Problem:
        """Every decision by itself. Large programs are searched by `tied`: only then is it made."""
        nodes = range(len(self.analysis.graph.nodes))
        horizon = len(self.analysis.program.ops) + 1
        return gathered(
            self.terms, self.prices, nodes, self._labels(nodes), self.limit_bytes, horizon
        )

    def tied(self, groups: Iterable[Sequence[int]]) -> Tied:
        """`tie(problem, groups)` from the terms, with the times at which memory may be fullest."""
        counts = [len(options) for options in self.layouts.options]
        place, first = leaders(counts, groups)
        problem = gathered(self.terms, self.prices, place, self._labels(first), self.limit_bytes)
        return Tied(problem, place, first)

    @property
    def cells(self) -> int:
        """How many numbers its tables have: how much work it is, known before any is priced."""
        sizes = [len(options) for options in self.layouts.options]
        ends = {form: (src, dst) for src, dst, form, _, _ in self.terms.sent}
        return sum(sizes[src] * sizes[dst] for src, dst in ends.values())

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """What an expert sees of each node; equal nodes have the same object."""
        anatomy, graph = self.analysis.anatomy, self.analysis.graph
        seen: dict[Look, Look] = {}

        def look(node: int) -> Look:
            classes = self.layouts.classes[node]
            found = Look(
                anatomy.kinds[node],
                node in anatomy.residual,
                node in anatomy.products,
                tuple([c in anatomy.batch for c in classes]),
                tuple([c in anatomy.sequence for c in classes]),
                tuple([c in anatomy.experts for c in classes]),
            )
            return seen.setdefault(found, found)

        return tuple(look(node.id) for node in graph.nodes)

    @cached_property
    def terms(self) -> Terms:
        """All that has a price here."""
        return self.analysis.terms_on(self.machine.chip.platform, self.beside, self.layouts.classes)

    @cached_property
    def prices(self) -> Prices:
        """Of the forms of `terms`."""
        return _Pricing(self.analysis, self.machine, self.layouts).prices(self.terms)

    def larger_side_bytes(self, op: Op, option: int) -> float:
        """Bytes on one device of an op's operands or of its results, whatever is more."""
        pricing = _Pricing(self.analysis, self.machine, self.layouts)
        return float(pricing.larger_side(op, self.analysis.graph.op_node[op.id])[option])

    def _labels(self, nodes: Iterable[int]) -> tuple[str, ...]:
        return tuple(map(self._label, nodes))

    def _label(self, node: int) -> str:
        n, ops = self.analysis.graph.nodes[node], self.analysis.program.ops
        if n.own is not None:
            return f"{ops[n.own].kind} {ops[n.own].at}"
        return f"use of tensor {n.use_of}" if n.use_of is not None else f"node {node}"


def build_problem(
    analysis: Analysis, machine: Machine, mesh: LogicalMesh, limit_bytes: float
) -> MeshProblem:
    """Price every option of every decision on a mesh."""
    layouts = enumerate_layouts(analysis.graph, mesh)
    near = analysis.beside_on(machine.chip, mesh.n_devices)
    return MeshProblem(analysis, machine, layouts, limit_bytes, near)


class _Pricing:
    """Numbers of forms on one mesh; each is priced by its example."""

    def __init__(self, analysis: Analysis, machine: Machine, layouts: Layouts) -> None:
        self.analysis = analysis
        self.graph, self.program = analysis.graph, analysis.program
        self.platform = machine.chip.platform
        self.tile = habits_of(self.platform).tile
        self.machine, self.layouts = machine, layouts
        self.axes = layouts.mesh.axes
        self._wire = analysis.wire
        self._tables: dict[tuple[object, ...], Reshards] = {}
        # Programs in which nothing repeats have many sizes, and still few ways between layouts.
        self._routes: dict[tuple[bytes, bytes], Routes] = {}

    def prices(self, terms: Terms) -> Prices:
        """Of every form."""
        sent = [self._between(example) for example in terms.sent_forms]
        return Prices(
            sizes=tuple(len(options) for options in self.layouts.options),
            own_s=tuple(map(self._own, terms.own_forms)),
            stored_bytes=tuple(map(self._stored, terms.stored_forms)),
            sent_s=tuple(seconds for seconds, _ in sent),
            sent_bytes=tuple(copy if copy.any() else None for _, copy in sent),
        )

    def _own(self, example: Op | Loop | Sum | Rows) -> Floats:
        if isinstance(example, Loop):
            return self._loop(example)
        if isinstance(example, Rows):
            moved = 2.0 * self._rows(example)  # read and written
            return memory_time_s(self.machine.chip, moved) * self.program.times(example.op.region)
        return self._sum(example) if isinstance(example, Sum) else self._op(example)

    def _between(self, example: Sent | Apart | Turned) -> tuple[Floats, Floats]:
        if isinstance(example, Turned):
            return self._turned(example)
        return self._sent(example) if isinstance(example, Sent) else self._apart(example)

    def _cut(self, node: int, classes: Classes) -> Floats:
        return self.layouts.shards(node, classes)

    def _op(self, op: Op) -> Floats:
        """An op with a node of its own."""
        chip, node = self.machine.chip, self.graph.op_node[op.id]
        times = self.program.times(op.region)
        traffic = self._traffic(op, node)
        if op.rule.op_class is OpClass.SEND:
            return self._send(op, node) * times
        if not op.rule.op_class.is_matrix:
            return memory_time_s(chip, traffic) * times
        factors = frozenset(c for c in self.graph.op_classes[op.id] if c is not None)
        flops = op.rule.flops / self._cut(node, factors)
        used = self._utilisation(op, node)
        return matmul_time_s(chip, flops, used, traffic, self._dtype(op)) * times

    def _send(self, op: Op, node: int) -> Floats:
        """A collective that the program writes itself, per option."""
        local, total = self.larger_side(op, node), np.zeros(len(self.layouts.options[node]))
        for axis in self.axes:
            if axis.name in op.over:
                total += np.asarray(collective_time_s(sent_as(op.kind), axis, local))
        return total

    def larger_side(self, op: Op, node: int) -> Floats:
        """Bytes on one device of an op's operands or of its results, whatever is more."""
        classes, sides = self.graph.op_classes[op.id], []
        for ids, rows in ((op.inputs, op.rule.operands), (op.outputs, op.rule.results)):
            side = np.zeros(len(self.layouts.options[node]))
            for t, dims in zip(ids, rows, strict=True):
                if t is not None:
                    cut = frozenset(c for c in classes_of(classes, dims) if c is not None)
                    side += self.program.tensors[t].size_bytes / self._cut(node, cut)
            sides.append(side)
        return np.maximum(*sides)

    def _utilisation(self, op: Op, node: int) -> Floats:
        """Of the matrix unit, per option; full for kernels that are no plain product."""
        if sum(bool(dims) for dims in op.rule.operands) != 2:
            return np.ones(len(self.layouts.options[node]))
        return product_utilisation(self.machine.chip.matrix_unit, self._product(op, node))

    def _product(self, op: Op, node: int) -> Product:
        """The op as a matrix product on one device, per option.

        Factors on both operands and the result are its batch, those on the second operand and the
        result its columns, those on both operands its depth. Whatever else the result has are
        rows, whatever else is summed (the window of a convolution) is depth.
        """
        classes = self.graph.op_classes[op.id]
        left, right, result = (
            frozenset(f for f in dims if f is not None)
            for dims in (*op.rule.operands[:2], op.rule.results[0])
        )
        parts = (left & right & result, (right & result) - left, (left & right) - result)
        batch, columns = (
            float(math.prod(op.rule.factors[f].size for f in part)) for part in parts[:2]
        )
        rows = self.program.tensors[op.outputs[0]].elements / (batch * columns)
        depth = op.rule.flops / (2.0 * batch * columns * rows)

        def cut(part: frozenset[int]) -> Floats:
            return self._cut(node, frozenset(c for f in part if (c := classes[f]) is not None))

        return Product(
            batch=batch / cut(parts[0]),
            rows=rows / cut((left & result) - right),
            columns=columns / cut(parts[1]),
            depth=depth / cut(parts[2]),
        )

    def _dtype(self, op: Op) -> str:
        first = next((t for t in op.inputs if t is not None), op.outputs[0])
        return self.program.tensors[first].dtype

    def _traffic(self, op: Op, node: int) -> Floats:
        total = np.zeros(len(self.layouts.options[node]))
        classes = self.graph.op_classes[op.id]
        reads = [*zip(op.inputs, op.rule.operands, strict=True)]
        sides = [*reads, *zip(op.outputs, op.rule.results, strict=True)]
        # What is read, or written in place, is no more of an array than the part in question; the
        # loop that goes on with it, or made it, does so itself.
        if op.kind == "dynamic_slice":
            sides = sides[-1:]
        elif op.kind == "dynamic_update_slice":
            sides = reads[1:2]
        for t, dims in sides:
            if t is not None:
                cut = frozenset(c for c in classes_of(classes, dims) if c is not None)
                total += self.program.tensors[t].size_bytes / self._cut(node, cut)
        return total

    def _loop(self, loop: Loop) -> Floats:
        size = sum((whole / self._cut(loop.node, cut) for cut, whole in loop.parts), _NOTHING)
        return memory_time_s(self.machine.chip, size) * loop.times

    def _sum(self, made: Sum) -> Floats:
        """A sum inside a node: split the summed dimension and the result needs an all-reduce."""
        region = self.program.ops[made.op].region
        times = self.analysis.sum_times(made.tensor, region, self.platform)
        before = self.layouts.state(made.node, made.dims, made.partial)
        local = local_bytes(before, self.program.tensors[made.tensor].size_bytes, self.axes)
        found = np.zeros(len(before))
        for a, axis in enumerate(self.axes):
            time = np.asarray(collective_time_s("all-reduce", axis, local))
            found += np.where(before[:, a] == PARTIAL, time, 0.0) * times
        return found

    def _rows(self, rows: Rows) -> Floats:
        """Bytes of copies with rows along the lanes; 0 where the array lies so anyway."""
        op, node, t = rows.op, self.graph.op_node[rows.op.id], rows.op.inputs[0]
        assert t is not None
        assert self.tile is not None
        tensor = self.program.tensors[t]
        dims = classes_of(self.graph.op_classes[op.id], op.rule.operands[0])
        local = self._local(node, tensor.shape, dims)
        along = row_major_elements(local, self.tile)
        turned = along > _TURNED_FROM * padded_elements(local, self.tile)
        return np.where(turned, along * tensor.itemsize_bytes * rows.copies, 0.0)

    def _local(self, node: int, shape: Sequence[int], dims: Dims) -> list[Floats]:
        """The size of every dimension of a tensor on one device, per option of a node."""
        one = np.ones(len(self.layouts.options[node]))
        return [
            np.ceil(size / (one if c is None else self._cut(node, frozenset({c}))))
            for size, c in zip(shape, dims, strict=True)
        ]

    def _stored(self, stored: Stored | Rows) -> Floats:
        """What a tensor occupies on one device, per option of its node."""
        if isinstance(stored, Rows):
            return self._rows(stored)
        node = stored.node
        t, dims = self.program.tensors[stored.tensor], self.graph.dims[stored.tensor]
        if self.tile is None:
            cut = frozenset(c for c in dims if c is not None)
            return t.size_bytes / self._cut(node, cut)
        one = np.ones(len(self.layouts.options[node]))
        return padded_elements(self._local(node, t.shape, dims), self.tile) * t.itemsize_bytes * one

    def _sent(self, sent: Sent) -> tuple[Floats, Floats]:
        """Seconds of a reshard, and bytes of its copy, per pair of options."""
        flow, near = sent.flow, sent.near
        src = self.layouts.state(flow.src, flow.src_dims, flow.partial)
        dst = self.layouts.state(flow.dst, flow.dst_dims)
        size = self._wire.size_bytes(flow)
        found = self._table(src, dst, size, near.latency_part)
        copy = found.copy_bytes
        if self._wire.is_converted(flow):
            copy = np.zeros_like(copy)  # what the reader makes of it arrives, and is counted there
        elif flow.into == "result":
            copy = self._unfinished(src, dst, size)  # the finished result is counted as stored
        seconds = added_s(self.machine.chip.overlap, near, found.seconds, found.windowed_s)
        seconds = seconds * self._times(flow, src, dst)
        # Sums sent as one share the time of one: exact if all are pending; if not, see `_apart`.
        pending = (src == PARTIAL).any(axis=1)[:, None]
        return np.where(pending, seconds / sent.joined, seconds), copy

    def _times(self, flow: Flow, src: Ints, dst: Ints) -> Floats:
        """How often a reshard happens in a step, per pair of options."""
        times = self.program.times(flow.region)
        once = self.analysis.sum_times(flow.tensor, flow.region, self.platform)
        if once == times or not flow.partial:
            return np.full((1, 1), float(times))
        finished = only_finishes(src[:, None, :], dst[None, :, :])
        return np.where(finished, float(once), float(times))

    def _apart(self, sums: Apart) -> tuple[Floats, Floats]:
        """What two sums that share a reshard lack of its price when only one of them is pending.

        An all-reduce is taken, the dearest it can be: who does not send it as one shall not gain.
        """
        one, other, joined = sums.one, sums.other, sums.joined
        times = self.analysis.sum_times(one.tensor, one.region, self.platform)
        a, b = (self.layouts.state(f.src, f.src_dims, f.partial) for f in (one, other))
        seconds = np.zeros((len(a), len(b)))
        for k, axis in enumerate(self.axes):
            for states, others, size, turn in (
                (a, b, self.program.tensors[one.tensor].size_bytes, False),
                (b, a, self.program.tensors[other.tensor].size_bytes, True),
            ):
                local = local_bytes(states, size, self.axes)
                price_s = np.asarray(collective_time_s("all-reduce", axis, local))
                alone = (states[:, k] == PARTIAL)[:, None] & (others[:, k] != PARTIAL)[None, :]
                lacking = np.where(alone, price_s[:, None], 0.0) * (1 - 1 / joined) * times
                seconds += lacking.T if turn else lacking
        return seconds, np.zeros_like(seconds)

    def _turned(self, turned: Turned) -> tuple[Floats, Floats]:
        """Bytes of a copy of what a loop slices; its time is left out, which rounds share."""
        flow, tensors = turned.flow, self.program.tensors
        src = self.layouts.state(flow.src, flow.src_dims)
        dst = self.layouts.state(flow.dst, flow.dst_dims)
        if turned.gathered:
            copied = gathers_inner(src, dst, tensors[flow.tensor].shape, self.axes)
        else:
            copied = (src[:, None, :] == dst[None, :, :]).all(axis=2)
        size = local_bytes(src, tensors[turned.stacked].size_bytes, self.axes)
        return np.zeros(copied.shape), np.where(copied, size[:, None], 0.0)

    def _unfinished(self, src: Ints, dst: Ints, size: float) -> Floats:
        """Bytes of results as their ops leave them, where another buffer takes what comes of them.

        An all-reduce writes where it reads.
        """
        before, after = src[:, None, :], dst[None, :, :]
        alone = np.array([axis.size == 1 for axis in self.axes])
        in_place = alone | (before == after) | ((before == PARTIAL) & (after == WHOLE))
        held = local_bytes(src, size, self.axes)[:, None]
        return np.where(in_place.all(axis=2), 0.0, held)

    def _table(self, src: Ints, dst: Ints, size: float, latency_part: float) -> Reshards:
        ends = (src.tobytes(), dst.tobytes())
        key = (*ends, size, latency_part)
        if key not in self._tables:
            if ends not in self._routes:
                self._routes[ends] = routes(src, dst, self.axes)
            self._tables[key] = priced(self._routes[ends], size, latency_part)
        return self._tables[key]
