"""The published layouts as meshes, and as what each decision of ours may be under them.

Published runs follow an expert's layout to the letter, so the options that are left are fewer than
a strategy of `autoshard.strategies` leaves: Megatron without sequence parallelism keeps the
residual stream whole on every device although cutting it would be quicker, FSDP gathers a layer
when it is used although there may be memory to keep it. All is told by structure, as there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoshard.program.ir import Role
from autoshard.search.build import MeshProblem
from autoshard.search.graph import Graph, Node
from autoshard.search.kinds import Kind, batch_classes, node_kinds
from autoshard.search.reduce import Keep
from benchmarks.published.rows import Layout

Mask = NDArray[np.bool_]

_AT_REST = frozenset({Kind.PARAMETER, Kind.OPTIMIZER})
_STATE = _AT_REST | {Kind.WEIGHT, Kind.GRADIENT}
# What each stage of ZeRO cuts over the replicas (Rajbhandari et al., arXiv:1910.02054, figure 1).
_CUT = {
    0: frozenset[Kind](),
    1: frozenset({Kind.OPTIMIZER}),
    2: frozenset({Kind.OPTIMIZER, Kind.PARAMETER}),
    3: _STATE,
}
# May be cut or not, whatever is quicker: gradients are scattered on the way to cut moments.
_FREE = {0: frozenset[Kind](), 1: {Kind.GRADIENT}, 2: {Kind.GRADIENT, Kind.WEIGHT}, 3: set[Kind]()}


def mesh_sizes(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Axes, major to minor: data across nodes, tensor inside."""
    if layout.data > 1 and layout.fsdp > 1:
        return (("data", layout.data), ("fsdp", layout.fsdp), ("tensor", layout.tensor))
    return (("data", layout.data * layout.fsdp), ("tensor", layout.tensor))


def allowed(numbers: MeshProblem, layout: Layout) -> Keep:
    """The options that a published layout leaves to every node."""
    return _Restriction(numbers, layout).keep()


class _Restriction:
    def __init__(self, numbers: MeshProblem, layout: Layout) -> None:
        self.graph, self.layouts = numbers.analysis.graph, numbers.layouts
        self.axes = {axis.name: a for a, axis in enumerate(numbers.mesh.axes)}
        self.sequence_parallel = layout.sequence_parallel
        sharded = layout.fsdp > 1 or layout.zero >= 2
        self.zero = max(layout.zero, 3 if layout.zero != 2 else 2) if sharded else layout.zero
        self.batch = batch_classes(self.graph)
        self.sequence = _sequence_classes(self.graph)
        self.kinds = node_kinds(self.graph, self.batch)
        self.carried = _carried(self.graph, self.batch, self.sequence)

    def keep(self) -> Keep:
        found: Keep = []
        for node, kind in zip(self.graph.nodes, self.kinds, strict=True):
            mask = np.ones(len(self.layouts.options[node.id]), dtype=bool)
            for name, a in self.axes.items():
                wish = self._tensor(node, kind, a) if name == "tensor" else None
                if wish is None:
                    wish = self._replicas(node, kind, a, name)
                if (mask & wish).any():
                    mask &= wish
            found.append([int(i) for i in np.flatnonzero(mask)])
        return found

    def _on(self, node: Node, axis: int, classes: frozenset[int] | None = None) -> Mask:
        """Options under which an axis cuts one of these classes; any class by default."""
        options = self.layouts.options[node.id][:, axis]
        inside = [classes is None or c in classes for c in self.layouts.classes[node.id]]
        found: Mask = np.array([*inside, False])[options]
        return found

    def _replicas(self, node: Node, kind: Kind, axis: int, name: str) -> Mask:
        off = ~self._on(node, axis)
        if kind in _STATE:
            # With plain replicas of sharded groups, state is cut inside a group only.
            zero = self.zero if name == "fsdp" or "fsdp" not in self.axes else 0
            if kind in _FREE[zero] or (zero >= 2 and node.use_of is not None):
                return off | ~off
            return self._on(node, axis) if kind in _CUT[zero] and not off.all() else off
        on_batch = self._on(node, axis, self.batch)
        return on_batch if on_batch.any() else off

    def _tensor(self, node: Node, kind: Kind, axis: int) -> Mask:
        on = self._on(node, axis)
        whole = self._on(node, axis, self.batch | self.sequence)
        if node.id in self.carried:
            on_sequence = self._on(node, axis, self.sequence)
            return on_sequence if self.sequence_parallel and on_sequence.any() else ~on
        if kind is Kind.MATMUL and self._is_product(node) and (on & ~whole).any():
            return on & ~whole
        if self.sequence_parallel:
            return ~self._on(node, axis, self.batch)
        return ~whole

    def _is_product(self, node: Node) -> bool:
        """Of two matrices; sums over replicas are written as products with a vector."""
        assert node.own is not None
        op = self.graph.program.ops[node.own]
        return all(len(dims) > 1 for dims in op.rule.operands[:2])


def _sequence_classes(graph: Graph) -> frozenset[int]:
    """Classes that positions flow into: behind the batch in every data input."""
    found: set[int] = set()
    for leaf in graph.program.inputs:
        if leaf.role is Role.DATA and leaf.tensor is not None:
            found.update(c for c in graph.dims[leaf.tensor][-1:] if c is not None)
    flows = [f for f in graph.flows if f.into != "new state"]
    while True:
        before = len(found)
        for f in flows:
            for a, b in zip(f.src_dims, f.dst_dims, strict=True):
                if a is not None and b is not None and (a in found or b in found):
                    found |= {a, b}
        if len(found) == before:
            return frozenset(found)


def _carried(graph: Graph, batch: frozenset[int], sequence: frozenset[int]) -> frozenset[int]:
    """Nodes of what a loop over layers carries: the residual stream, and its gradient."""
    found: set[int] = set()
    for op in graph.program.ops:
        if op.kind == "scan_carry":
            for t in op.outputs:
                here = {c for c in graph.dims[t] if c is not None}
                if here & sequence and (here & batch or len(graph.dims[t]) > 2):
                    found.add(graph.node_of[t])
    return frozenset(found)
