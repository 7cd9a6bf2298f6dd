"""The layouts each decision may take on one mesh."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from autoshard.cost.reshard import PARTIAL, WHOLE, Floats, Ints
from autoshard.machine.model import LogicalMesh
from autoshard.program.rule import Combiner
from autoshard.program.spec import Spec
from autoshard.search.graph import Dims, Graph, Node

# A node keeps its classes with the most bytes behind them; the rest stay whole. Only programs of
# many differently shaped tensors in one node (U-Nets) ever reach this.
_MOST_CLASSES = 7


@dataclass(frozen=True)
class Layouts:
    """The options of every node on a mesh.

    Attributes:
        mesh: the mesh.
        classes: per node, the classes its options may split.
        options: per node, `[options, axes]`: index into `classes`, or -1 for "this axis splits
            nothing here". Option 0 is always "whole".
    """

    mesh: LogicalMesh
    classes: tuple[tuple[int, ...], ...]
    options: tuple[Ints, ...]

    def state(self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]] = ()) -> Ints:
        """Layouts of a tensor under each option: `[options, axes]`, as `cost.reshard` has it."""
        found: Ints = self.lookup(node, dims, partial)[self.options[node]]
        return found

    def lookup(self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]] = ()) -> Ints:
        """What splitting each class of a node does to a tensor; the last entry is for none."""
        index = {c: i for i, c in enumerate(self.classes[node])}
        # The last entry answers for -1.
        table = np.full(len(index) + 1, WHOLE, dtype=np.int64)
        for c, _ in partial:
            if c in index:
                table[index[c]] = PARTIAL
        for d, dim in enumerate(dims):
            if dim is not None and dim in index:
                table[index[dim]] = d
        return table

    def shards(self, node: int, classes: frozenset[int]) -> Floats:
        """How many pieces the given classes are cut into together, per option."""
        index = [i for i, c in enumerate(self.classes[node]) if c in classes]
        sizes = np.array([axis.size for axis in self.mesh.axes], dtype=np.float64)
        found: Floats = np.where(np.isin(self.options[node], index), sizes, 1.0).prod(axis=1)
        return found

    def spec(self, node: int, option: int, dims: Dims) -> Spec:
        """The spec of a tensor with these classes under one option."""
        row = self.state(node, dims)[option]
        names = [axis.name for axis in self.mesh.axes]
        return Spec(
            tuple(
                tuple(n for a, n in enumerate(names) if row[a] == d and self.mesh.axes[a].size > 1)
                for d in range(len(dims))
            )
        )


def enumerate_layouts(graph: Graph, mesh: LogicalMesh) -> Layouts:
    """All options of all nodes: every axis on any class it divides, or on none."""
    sizes = tuple(axis.size for axis in mesh.axes)
    classes = tuple(_most_important(graph, node) for node in graph.nodes)
    cache: dict[tuple[int, ...], Ints] = {}
    options: list[Ints] = []
    for kept in classes:
        key = tuple(graph.size[c] for c in kept)
        if key not in cache:
            cache[key] = _options(key, sizes)
        options.append(cache[key])
    return Layouts(mesh, classes, tuple(options))


def _options(class_sizes: tuple[int, ...], axis_sizes: tuple[int, ...]) -> Ints:
    rows: list[tuple[int, ...]] = []
    choices = [
        [-1, *(i for i, n in enumerate(class_sizes) if n % size == 0)] if size > 1 else [-1]
        for size in axis_sizes
    ]
    for row in itertools.product(*choices):
        if all(
            n % prod(axis_sizes[a] for a, c in enumerate(row) if c == i) == 0
            for i, n in enumerate(class_sizes)
        ):
            rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(axis_sizes))


def _most_important(graph: Graph, node: Node) -> tuple[int, ...]:
    if len(node.classes) <= _MOST_CLASSES:
        return node.classes
    weight = dict.fromkeys(node.classes, 0.0)
    for t in node.tensors:
        for c in graph.dims[t]:
            if c in weight:
                weight[c] += graph.program.tensors[t].size_bytes
    kept = sorted(node.classes, key=lambda c: (-weight[c], c))[:_MOST_CLASSES]
    return tuple(sorted(kept))
