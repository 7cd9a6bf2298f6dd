"""From a choice of options to the parts of a plan: specs, constraints, collectives, peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from autoshard.cost.collectives import COLLECTIVES, collective_time_s, formed
from autoshard.cost.overlap import Beside, added_s
from autoshard.cost.reshard import (
    PARTIAL,
    WINDOWED,
    Ints,
    dim_of,
    local_bytes,
    on,
    only_finishes,
    rank_of,
    stages,
    steps,
)
from autoshard.plan.model import Alive, Collective, Constraint, LeafPlan, Prediction
from autoshard.program.ir import Leaf, Op, Place
from autoshard.program.rule import Combiner, OpClass
from autoshard.program.spec import Spec
from autoshard.rules.manual import sent_as
from autoshard.search.build import MeshProblem
from autoshard.search.graph import Dims, Flow, Sum
from autoshard.search.joined import Part
from autoshard.search.kinds import AT_REST, WITHOUT_BATCH, Kind
from autoshard.search.layouts import spec_of
from autoshard.search.terms import Turned

# Inputs at least this large that stay whole on every device are pointed out.
REPLICATED_NOTE_BYTES = 1 << 20


_HOLDS = {
    Kind.PARAMETER: "state",
    Kind.OPTIMIZER: "state",
    Kind.WEIGHT: "weight in use",
    Kind.GRADIENT: "gradient",
    Kind.MATMUL: "activation",
    Kind.ACTIVATION: "activation",
}
_SUM = "sum over a split dimension"
_WRITTEN = "as the program says"
_PARAMETERS = AT_REST | {Kind.WEIGHT}


class Answer:
    """One choice of options for a mesh, read as layouts.

    Args:
        mesh_problem: the numbers and what they mean.
        choice: an option per node.
    """

    def __init__(self, mesh_problem: MeshProblem, choice: Sequence[int]) -> None:
        self.numbers, self.choice = mesh_problem, tuple(choice)
        self.graph = mesh_problem.analysis.graph
        self.program = mesh_problem.analysis.program
        self.layouts = mesh_problem.layouts
        self.axes = mesh_problem.mesh.axes
        self._op_at = {op.at: op for op in self.program.ops if not op.in_places}
        self._last = len(self.program.ops) - 1
        self._live = mesh_problem.analysis.live_on(mesh_problem.machine.chip.platform)
        self._kinds = mesh_problem.analysis.kinds
        self._flow_at = {
            (f.places[0], f.into): f for f in self.graph.flows if f.into != "shared use"
        }

    def spec(self, node: int, dims: Dims) -> Spec:
        return self.layouts.spec(node, self.choice[node], dims)

    def tensor_spec(self, tensor: int) -> Spec:
        return self.spec(self.graph.node_of[tensor], self.graph.dims[tensor])

    def _row(self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]] = ()) -> Ints:
        option = self.choice[node]
        row: Ints = self.layouts.state(node, dims, partial)[option : option + 1]
        return row

    # -- leaves ------------------------------------------------------------------------------

    def inputs(self) -> tuple[LeafPlan, ...]:
        return tuple(
            self._leaf(leaf, self.tensor_spec(leaf.tensor))
            for leaf in self.program.inputs
            if leaf.tensor is not None
        )

    def outputs(self) -> tuple[LeafPlan, ...]:
        out: list[LeafPlan] = []
        for leaf, where in zip(self.program.outputs, self.graph.out_node, strict=True):
            spec = Spec.replicated(len(leaf.shape)) if where is None else self.spec(*where)
            out.append(self._leaf(leaf, spec))
        return tuple(out)

    def _leaf(self, leaf: Leaf, spec: Spec) -> LeafPlan:
        tensor = self.program.tensors[leaf.tensor] if leaf.tensor is not None else None
        whole = tensor.size_bytes if tensor is not None else 0.0
        note = ""
        if leaf.tensor is not None and spec.is_replicated and whole >= REPLICATED_NOTE_BYTES:
            note = self._why_whole(leaf.tensor)
        return LeafPlan(
            path=leaf.path,
            shape=leaf.shape,
            dtype=leaf.dtype,
            role=leaf.role.value,
            spec=spec,
            bytes_per_device=whole / spec.shards(self.numbers.mesh.sizes),
            note=note,
            treepath=leaf.treepath,
        )

    def whole_inside(self) -> Iterator[tuple[int, Op, str]]:
        """Large values between inputs and outputs that had to stay whole: tensor, maker, why."""
        for op in self.program.ops:
            for t in op.outputs:
                if self.program.tensors[t].size_bytes < REPLICATED_NOTE_BYTES:
                    continue
                if not op.rule.known:  # whatever becomes of it afterwards
                    yield t, op, f"{op.kind} has no sharding rule"
                elif len(self.layouts.options[self.graph.node_of[t]]) == 1:
                    yield t, op, self._why_whole(t).partition(": ")[2]

    def _why_whole(self, tensor: int) -> str:
        node = self.graph.node_of[tensor]
        if len(self.layouts.options[node]) > 1:
            return "whole on every device: cheaper than splitting it"
        sizes = " x ".join(str(a.size) for a in self.axes if a.size > 1)
        return f"whole on every device: no dimension that may be split divides by {sizes}"

    # -- constraints -------------------------------------------------------------------------

    def constraints(self) -> tuple[Constraint, ...]:
        found: dict[tuple[str, str], Constraint] = {}
        for item in (*self._definitions(), *self._uses()):
            # A use of one operand may pass two nodes: the later spec follows the earlier.
            key = (item.at, item.slot)
            if key in found and not item.slot.startswith("result"):
                before = found[key]
                merged = (*before.specs, *(s for s in item.specs if s != before.specs[-1]))
                sent_as = item.sent_as or before.sent_as
                item = replace(item, specs=merged, again=before.again, sent_as=sent_as)
            found[key] = item
        return tuple(found.values())

    def _definitions(self) -> Iterator[Constraint]:
        stored = self._live.is_stored
        read_by_flow = {f.tensor for f in self.graph.flows}
        for op in self.program.ops:
            if not op.at or self._is_elsewhere(op):
                continue
            for k, out in enumerate(op.outputs):
                tensor = self.program.tensors[out]
                if not tensor.shape or tensor.elements == 1:
                    continue
                flow = self._flow_at.get((op.out_place(k), "result"))
                if flow is None and not (stored(out) or out in read_by_flow):
                    continue
                spec = self.tensor_spec(out)
                specs: tuple[Spec, ...] = (spec,)
                reason = _HOLDS[self._kinds[self.graph.node_of[out]]]
                if flow is not None:
                    specs = self._stages(flow)
                    reason = self._result_reason(flow) or reason
                yield self._constraint(op, op.out_place(k), specs, out, reason)

    def _is_elsewhere(self, op: Op) -> bool:
        """Whether an op stands in code that is written for another mesh, and so is left alone."""
        boundary = op.manual.taken if op.manual is not None and op.in_places else None
        taken = boundary or self.program.regions[op.region].taken
        return taken is not None and not taken.is_for(self.numbers.mesh.sizes)

    def _stages(self, flow: Flow) -> tuple[Spec, ...]:
        """The specs a tensor passes through, one collective apart."""
        src = self._row(flow.src, flow.src_dims, flow.partial)[0]
        dst = self._row(flow.dst, flow.dst_dims)[0]
        mesh, own = self.numbers.mesh, self.graph.nodes[flow.src].own
        convolved = own is not None and self.program.ops[own].rule.op_class is OpClass.CONV
        return tuple(
            spec_of(state, len(flow.dst_dims), mesh)
            for state in stages(src, dst, self.axes, sums_first=convolved)
        )

    def _why(self, flow: Flow) -> str:
        """Why a tensor changes its layout here, for people."""
        src, dst = self._kinds[flow.src], self._kinds[flow.dst]
        if flow.into == "new state":
            return "new state back to where it rests"
        if flow.into == "result":
            return "gradient summed" if dst in WITHOUT_BATCH else "matmul result summed"
        if dst in AT_REST:
            return "optimizer update" if src in _PARAMETERS else "gradient to the optimizer"
        if src in WITHOUT_BATCH:
            return "parameter gathered for use"
        return "activation laid out for use"

    def _result_reason(self, flow: Flow) -> str:
        row = self._row(flow.src, flow.src_dims, flow.partial)[0]
        names = [a.name for a, s in zip(self.axes, row, strict=True) if s == PARTIAL and a.size > 1]
        return f"partial sum over {' and '.join(names)}" if names else ""

    def _uses(self) -> Iterator[Constraint]:
        times: dict[int, int] = {}
        wire = self.numbers.analysis.wire
        for flow in self.graph.flows:
            if flow.into in ("result", "new state"):
                continue
            have = self.spec(flow.src, flow.src_dims)
            want = self.spec(flow.dst, flow.dst_dims)
            by_rows = self._enters_optimizer(flow)
            if have == want and not by_rows:
                continue
            again = 0
            # Reads within a loop share one node; at the top, each burst of reads has its own.
            if flow.region == 0 and flow.src == self.graph.node_of[flow.tensor]:
                again = times.get(flow.tensor, 0)
                times[flow.tensor] = again + 1
            stages = self._stages(flow)
            for place in flow.places:
                op = self._op_at.get(place.at, self.program.ops[min(flow.at, self._last)])
                if self._is_elsewhere(op):
                    continue
                tensor, specs = flow.tensor, stages[1:] or (want,)
                if wire.narrows(op, flow.tensor):
                    # Told to lay out the wide value, XLA may send it so.
                    place, tensor, specs = op.out_place(0), op.outputs[0], stages
                made = self._constraint(op, place, specs, tensor, self._why(flow))
                if tensor == flow.tensor and have != want:
                    made = replace(made, sent_as=wire.widened_from(flow))
                yield replace(made, again=again, by_rows=by_rows)

    def _enters_optimizer(self, flow: Flow) -> bool:
        """Whether this is a gradient that a TPU should lay out in memory as the state it updates.

        It comes out of its matmul transposed. XLA's layout assignment, left alone, would rather
        transpose the parameter and the optimizer's state to it, and the new state back: six
        copies of float32 for one of the gradient's (seen in TPU modules of libtpu 0.0.52).
        """
        return (
            self.numbers.machine.chip.platform == "tpu"
            and self._kinds[flow.dst] in AT_REST
            and self._kinds[flow.src] not in AT_REST
            and sum(size > 1 for size in self.program.tensors[flow.tensor].shape) > 1
        )

    def _constraint(
        self, op: Op, place: Place, specs: tuple[Spec, ...], tensor: int, reason: str
    ) -> Constraint:
        t = self.program.tensors[tensor]
        return Constraint(
            at=place.at,
            slot=place.slot,
            specs=specs,
            shape=t.shape,
            dtype=t.dtype,
            source=op.source,
            primitive=op.kind,
            reason=reason,
        )

    # -- communication -----------------------------------------------------------------------

    def collectives(self) -> tuple[Collective, ...]:
        found = [
            c
            for i, (flow, near) in enumerate(
                zip(self.graph.flows, self.numbers.beside, strict=True)
            )
            if not self._goes_with_a_later(i)
            for c in self._of_flow(flow, near)
        ]
        found += [c for made in self.graph.sums for c in self._of_sum(made)]
        found += [c for op in self.program.ops if op.over for c in self._of_send(op)]
        return tuple(sorted(found, key=lambda c: -c.seconds))

    def _goes_with_a_later(self, i: int) -> bool:
        """Whether a partial sum is added to a later one of the same layout, and sent with it."""
        platform = self.numbers.machine.chip.platform
        group = self.numbers.analysis.joined_on(platform).get(i, ())
        if not group or i == group[-1].flow:
            return False
        ends = [self._ends(part) for part in group]
        return PARTIAL in ends[0][0] and all(e == ends[0] for e in ends)

    def _ends(self, part: Part) -> tuple[list[int], list[int]]:
        """The states a part of a sum passes between, by axis; dimensions are the total's."""
        flow = self.graph.flows[part.flow]
        src = self._row(flow.src, flow.src_dims, flow.partial)[0]
        dst = self._row(flow.dst, flow.dst_dims)[0]
        place = {d: k for k, d in enumerate(part.order)}

        def turned(row: Ints) -> list[int]:
            dims, ranks = dim_of(row).tolist(), rank_of(row).tolist()
            return [d if d < 0 else on(place[d], rank) for d, rank in zip(dims, ranks, strict=True)]

        return turned(src), turned(dst)

    def _of_flow(self, flow: Flow, near: Beside) -> Iterator[Collective]:
        src = self._row(flow.src, flow.src_dims, flow.partial)
        dst = self._row(flow.dst, flow.dst_dims)
        op = self.program.ops[min(flow.at, len(self.program.ops) - 1)]
        times = self.program.times(flow.region)
        if flow.partial and only_finishes(src[0], dst[0]):
            times = self._sum_times(flow.tensor, flow.region)
        found = [
            self._collective(
                step.kind,
                step.axis,
                float(step.size_bytes[0, 0]),
                times,
                flow.tensor,
                op,
                self._why(flow),
                flow.region,
                near.latency_part,
            )
            for step in steps(src, dst, self.numbers.analysis.wire.size_bytes(flow), self.axes)
        ]
        total_s, windowed_s = (
            np.asarray(sum(c.seconds for c in found if c.kind in kinds) / max(times, 1))
            for kinds in (COLLECTIVES, WINDOWED)
        )
        if total_s:
            overlap = self.numbers.machine.chip.overlap
            part = float(added_s(overlap, near, total_s, windowed_s) / total_s)
            found = [replace(c, exposed_s=c.seconds * part) for c in found]
        yield from found

    def _of_sum(self, made: Sum) -> Iterator[Collective]:
        op = self.program.ops[made.op]
        row = self._row(made.node, made.dims, made.partial)
        size = float(local_bytes(row, self.program.tensors[made.tensor].size_bytes, self.axes)[0])
        times = self._sum_times(made.tensor, op.region)
        for a in np.flatnonzero(row[0] == PARTIAL):
            if self.axes[a].size > 1:
                yield self._collective(
                    "all-reduce", int(a), size, times, made.tensor, op, _SUM, op.region
                )

    def _of_send(self, op: Op) -> Iterator[Collective]:
        """A collective that the program writes itself."""
        size = self.numbers.larger_side_bytes(op, self.choice[self.graph.op_node[op.id]])
        times = self.program.times(op.region)
        for a, axis in enumerate(self.axes):
            if axis.name in op.over and axis.size > 1:
                yield self._collective(
                    sent_as(op.kind), a, size, times, op.outputs[0], op, _WRITTEN, op.region
                )

    def _sum_times(self, tensor: int, region: int) -> int:
        platform = self.numbers.machine.chip.platform
        return self.numbers.analysis.sum_times(tensor, region, platform)

    def _collective(
        self,
        kind: str,
        axis: int,
        size: float,
        times: int,
        tensor: int,
        op: Op,
        reason: str,
        region: int,
        latency_part: float = 1.0,
    ) -> Collective:
        t = self.program.tensors[tensor]
        seconds = float(collective_time_s(kind, self.axes[axis], size, latency_part)) * times
        return Collective(
            kind=formed(kind, self.axes[axis]),
            axes=(self.axes[axis].name,),
            count=times,
            bytes=size,
            seconds=seconds,
            exposed_s=seconds,
            tensor=f"{t.dtype}[{','.join(map(str, t.shape))}]",
            source=op.source,
            scope=op.scope,
            reason=reason,
            come_by=self._come_by(region, times),
        )

    def _come_by(self, region: int, times: int) -> int:
        """How often a step comes by the code; 0 if it runs as often, or later."""
        every = self.program.comes_by(region)
        return every if times == self.program.times(region) != every else 0

    # -- prediction --------------------------------------------------------------------------

    def prediction(self, collectives: Sequence[Collective]) -> Prediction:
        problem = self.numbers.problem
        step_s = problem.cost_s(self.choice)
        exposed = sum(c.exposed_s for c in collectives)
        used = problem.usage_bytes(self.choice)
        when = int(np.argmax(used)) if len(used) else 0
        ops = self.program.ops
        state = [x for x in self.inputs() if x.role in ("parameter", "optimizer")]
        return Prediction(
            step_s=step_s,
            compute_s=max(step_s - exposed, 0.0),
            communication_s=sum(c.seconds for c in collectives),
            exposed_s=exposed,
            peak_bytes=float(used[when]) if len(used) else 0.0,
            state_bytes=sum(x.bytes_per_device for x in state),
            peak_at=_where(ops[when]) if when < len(ops) else "the end of the step",
            alive_at_peak=self.alive(when),
            flops=sum(
                op.rule.flops * self.program.times(op.region) * self.program.shards(op.region)
                for op in ops
                if op.rule.op_class.is_matrix
            ),
        )

    def alive(self, when: int, most: int = 12) -> tuple[Alive, ...]:
        """The largest tensors and copies of tensors in memory at a time, largest first."""
        found = [x for x in self._occupants(when) if x.bytes_per_device > 0]
        found.sort(key=lambda a: -a.bytes_per_device)
        return tuple(found[:most])

    def _occupants(self, when: int) -> Iterator[Alive]:
        names = {leaf.tensor: leaf.path for leaf in self.program.inputs}
        made = {out: op for op in self.program.ops for out in op.outputs}
        terms, prices = self.numbers.terms, self.numbers.prices

        def alive(tensor: int, size: float, purpose: str = "", source: str = "") -> Alive:
            t, op = self.program.tensors[tensor], made.get(tensor)
            shape = f"{t.dtype}[{','.join(map(str, t.shape))}]"
            what = names.get(tensor) or (f"{op.kind} {shape}" if op else shape)
            return Alive(what + purpose, size, source or (op.source if op else ""))

        lifetimes = [life for life in self._live.lifetimes if life is not None]
        for k, (node, form, start, end) in enumerate(terms.stored):
            if not start <= when <= end:
                continue
            size = float(prices.stored_bytes[form][self.choice[node]])
            if k < len(lifetimes):
                yield alive(lifetimes[k].tensor, size)
                continue
            rows = self.program.ops[start]
            if rows.inputs[0] is not None:
                yield alive(
                    rows.inputs[0], size, f", rows along lanes for {rows.kind}", rows.source
                )
        for k, (src, dst, form, start, end) in enumerate(terms.sent):
            sizes = prices.sent_bytes[form]
            if sizes is None or not start <= when <= end:
                continue
            size = float(sizes[self.choice[src], self.choice[dst]])
            example = terms.sent_forms[form]
            if isinstance(example, Turned):
                yield alive(example.stacked, size, ", in another order")
            elif k < len(self.graph.flows):
                flow = self.graph.flows[k]
                source = self.program.ops[flow.at].source if flow.at <= self._last else ""
                yield alive(flow.tensor, size, f", laid out anew as {flow.into}", source)


def _where(op: Op) -> str:
    return f"{op.kind} at {op.source}" if op.source else op.kind
