"""The published layouts as meshes and strategies of ours.

A published run follows its layout to the letter, so of the options that a strategy leaves to the
search some more go: FSDP gathers a layer where it is used, although there may be memory to keep
all of them, and Megatron keeps matrices cut where they rest, although here memory is no limit. In a
pipeline the last stage has the head: the others have nothing else to do meanwhile, so that it takes
as long as if every stage had it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoshard.plan.pipeline import PIPE
from autoshard.search.build import MeshProblem
from autoshard.search.graph import Node
from autoshard.search.kinds import WITHOUT_BATCH, Kind
from autoshard.search.reduce import Keep
from autoshard.search.strategy import Strategy, View, combined, restrict
from autoshard.search.wishes import grant
from autoshard.strategies import STRATEGIES
from benchmarks.published.rows import Layout
from benchmarks.published.stages import Stages

Mask = NDArray[np.bool_]

# ZeRO's stages by the strategy that lays them out; stage 2 gathers parameters once a step.
_STAGES = {0: None, 1: "zero1", 2: "zero3", 3: "zero3"}


def _on_one_stage(view: View) -> Mask:
    """State lies with its layers; nothing that has a batch is dealt out over stages."""
    return view.any_option if view.kind in WITHOUT_BATCH else view.idle


def _any(view: View) -> Mask:
    return view.any_option


def _sums_of_stages(view: View) -> Mask:
    """Stages leave one term of every gradient per replica: how they are added up is free."""
    return view.any_option if view.kind is Kind.GRADIENT else view.batch


_STAGED = Strategy(
    name="stages",
    source="Narayanan et al., arXiv:2104.04473, section 2.2",
    rules={PIPE: _on_one_stage},
)


def mesh_sizes(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Axes, major to minor: replicas across nodes, then parameter shards, tensor inside."""
    if layout.data > 1 and layout.fsdp > 1:
        return (("data", layout.data), ("fsdp", layout.fsdp), ("tensor", layout.tensor))
    return (("data", layout.data * layout.fsdp), ("tensor", layout.tensor))


def pipeline_sizes(layout: Layout, stages: Stages | None) -> dict[str, int]:
    """Axes of the mesh, with a pipeline or without."""
    return dict(mesh_sizes(layout)) if stages is None else stages.pipeline.sizes


def stage(layout: Layout) -> int:
    """ZeRO's stage: parameter shards are stage 3 unless the row says 2."""
    return max(layout.zero, 3 if layout.zero != 2 else 2) if layout.fsdp > 1 else layout.zero


def strategy_of(layout: Layout, stages: Stages | None = None) -> Strategy:
    """The strategies that the layout names, combined."""
    shards = "fsdp" if layout.data > 1 and layout.fsdp > 1 else "data"
    parts: list[Strategy] = []
    if (name := _STAGES[stage(layout)]) is not None and layout.data * layout.fsdp > 1:
        one = STRATEGIES[name]
        parts.append(replace(one, rules={shards: one.rules["data"]}, demands={}))
    if layout.tensor > 1:
        parts.append(STRATEGIES["sequence_parallel" if layout.sequence_parallel else "megatron"])
    if stages is not None:
        parts.append(_STAGED)
        if not any("data" in part.rules for part in parts):
            parts.append(replace(STRATEGIES["data_parallel"], rules={"data": _sums_of_stages}))
    return combined(*parts) if parts else STRATEGIES["data_parallel"]


def allowed(numbers: MeshProblem, layout: Layout, stages: Stages | None = None) -> Keep:
    """The options that a published layout leaves to every node."""
    strategy = strategy_of(layout, stages)
    keep = restrict(numbers, strategy)
    axes = {axis.name: a for a, axis in enumerate(numbers.mesh.axes) if axis.size > 1}
    shards = axes.get("fsdp", axes.get("data"))
    exact = _Exact(numbers)
    # What stages hand on lies as they left it, which is cheapest anyway.
    loose = {"data": _any, PIPE: _any}
    handed = restrict(numbers, replace(strategy, rules=strategy.rules | loose))
    for node in numbers.analysis.graph.nodes:
        if "tensor" in axes:
            keep[node.id] = exact.tensor(node, keep[node.id], axes["tensor"])
        if shards is not None and stage(layout) == 3:
            keep[node.id] = exact.shards(node, keep[node.id], shards)
        if stages is not None:
            keep[node.id] = exact.stages(node, keep[node.id], axes[PIPE])
            if node.id in exact.handed:
                keep[node.id] = handed[node.id]
    return grant(numbers, ()).within(keep)


class _Exact:
    """What is left of a node's options when a layout is followed to the letter."""

    def __init__(self, numbers: MeshProblem) -> None:
        self.graph, self.layouts = numbers.analysis.graph, numbers.layouts
        self.anatomy = numbers.analysis.anatomy

    @cached_property
    def layers(self) -> frozenset[int]:
        """Classes of the dimension that layers are stacked along, where they are no activations."""
        graph, kinds = self.graph, self.anatomy.kinds
        found = {
            c
            for op in graph.program.ops
            if op.manual is not None
            for c, axes in zip(graph.op_classes[op.id], op.manual.axes, strict=True)
            if c is not None and PIPE in (axes or ()) and c not in self.anatomy.batch
        }
        flows = [f for f in graph.flows if {kinds[f.src], kinds[f.dst]} <= WITHOUT_BATCH]
        ties = [
            {a, b}
            for flow in flows
            for a, b in zip(flow.src_dims, flow.dst_dims, strict=True)
            if a is not None and b is not None
        ]
        while new := {c for tie in ties if tie & found for c in tie} - found:
            found |= new
        return frozenset(found)

    def tensor(self, node: Node, keep: list[int], axis: int) -> list[int]:
        """Matrices and their products are cut."""
        kind = self.anatomy.kinds[node.id]
        if kind is Kind.MATMUL and node.own is not None:
            operands = self.graph.program.ops[node.own].rule.operands[:2]
            # Sums over replicas are written as products with a vector.
            wanted = all(len(dims) > 1 for dims in operands)
        else:
            wanted = kind in WITHOUT_BATCH and any(
                sum(c is not None for c in self.graph.dims[t]) > 1 for t in node.tensors
            )
        return self._cut(node, keep, axis) if wanted else keep

    def shards(self, node: Node, keep: list[int], axis: int) -> list[int]:
        """Parameters and gradients are cut wherever they are not just being used."""
        wanted = self.anatomy.kinds[node.id] in WITHOUT_BATCH and node.use_of is None
        return self._cut(node, keep, axis) if wanted else keep

    @cached_property
    def handed(self) -> frozenset[int]:
        """Nodes of values that go into stages or come out of them, and are no state."""
        graph, ops = self.graph, self.graph.program.ops
        borders = {graph.op_node[op.id] for op in ops if op.manual is not None}
        beside = {f.src for f in graph.flows if f.dst in borders}
        beside |= {f.dst for f in graph.flows if f.src in borders}
        kinds = self.anatomy.kinds
        return frozenset(n for n in borders | beside if kinds[n] is Kind.ACTIVATION)

    def stages(self, node: Node, keep: list[int], axis: int) -> list[int]:
        """Stages split the stack of layers, and no other dimension of state."""
        own = [c in self.layers for c in self.layouts.classes[node.id]]
        options = self.layouts.options[node.id][:, axis]
        return [k for k in keep if options[k] < 0 or own[options[k]]] or keep

    def _cut(self, node: Node, keep: list[int], axis: int) -> list[int]:
        options = self.layouts.options[node.id][:, axis]
        return [k for k in keep if options[k] >= 0] or keep
