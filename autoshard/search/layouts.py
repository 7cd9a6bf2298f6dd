"""The layouts each decision may take on one mesh."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

import numpy as np

from autoshard.cost.reshard import PARTIAL, WHOLE, Floats, Ints, dim_of, on, rank_of
from autoshard.machine.model import LogicalMesh
from autoshard.program.ir import Taken
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
        ranks: per node, `[options, axes]`: the place of each axis among those that split the same
            class; 0 is major.
    """

    mesh: LogicalMesh
    classes: tuple[tuple[int, ...], ...]
    options: tuple[Ints, ...]
    ranks: tuple[Ints, ...]
    # Nodes with classes of equal sizes have the very same arrays of options, and these answers.
    _states: dict[tuple[int, tuple[int, ...]], Ints] = field(default_factory=dict, repr=False)
    _pieces: dict[tuple[int, tuple[bool, ...]], Floats] = field(default_factory=dict, repr=False)

    def state(self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]] = ()) -> Ints:
        """Layouts of a tensor under each option: `[options, axes]`, as `cost.reshard` has it.

        Not to be written to: nodes of equal layers share it.
        """
        effect = self._effect(node, dims, partial)
        key = (id(self.options[node]), effect)
        if key not in self._states:
            told = np.array(effect, dtype=np.int64)[self.options[node]]
            self._states[key] = np.where(told >= 0, told + self.ranks[node], told)
        return self._states[key]

    def _effect(
        self, node: int, dims: Dims, partial: Sequence[tuple[int, Combiner]]
    ) -> tuple[int, ...]:
        """What splitting each class of a node does to a tensor; the last entry is for none."""
        summed = {c for c, _ in partial}
        split = {c: on(d) for d, c in enumerate(dims) if c is not None}
        found = (split.get(c, PARTIAL if c in summed else WHOLE) for c in self.classes[node])
        return (*found, WHOLE)  # -1 looks up the last entry

    def shards(self, node: int, classes: frozenset[int]) -> Floats:
        """How many pieces the given classes are cut into together, per option.

        Not to be written to: nodes of equal layers share it.
        """
        held = tuple(c in classes for c in self.classes[node])
        key = (id(self.options[node]), held)
        if key not in self._pieces:
            sizes = np.array([axis.size for axis in self.mesh.axes], dtype=np.float64)
            cut = np.array((*held, False))[self.options[node]]
            self._pieces[key] = np.where(cut, sizes, 1.0).prod(axis=1)
        return self._pieces[key]

    def spec(self, node: int, option: int, dims: Dims) -> Spec:
        """The spec of a tensor with these classes under one option."""
        return spec_of(self.state(node, dims)[option], len(dims), self.mesh)


def refinement(fine: LogicalMesh, coarse: LogicalMesh) -> tuple[int, ...] | None:
    """Where a mesh is another with axes split in place: per axis, the axis that it is a part of.

    Axes of size 1 are part of none (-1). None where it is no such mesh.
    """
    big = [(k, axis.size) for k, axis in enumerate(coarse.axes) if axis.size > 1]
    parts: list[int] = []
    whole = iter(big)
    parent, left = -1, 1
    for axis in fine.axes:
        if axis.size == 1:
            parts.append(-1)
            continue
        if left == 1:
            parent, left = next(whole, (-1, 1))
        if left % axis.size:
            return None
        left //= axis.size
        parts.append(parent)
    return tuple(parts) if left == 1 and next(whole, None) is None else None


def refined(
    fine: Layouts, coarse: Layouts, parts: Sequence[int], choice: Sequence[int]
) -> tuple[int, ...]:
    """An answer for a mesh, told for one that splits its axes: every part does as the whole did.

    Args:
        fine: layouts on the mesh of more axes.
        coarse: layouts on the other.
        parts: from `refinement`.
        choice: an option of `coarse` per node.
    """
    found: list[int] = []
    known: dict[tuple[int, int, int], int] = {}
    for node, option in enumerate(choice):
        key = (id(fine.options[node]), id(coarse.options[node]), option)
        if key not in known:
            row, ranks = coarse.options[node][option], coarse.ranks[node][option]
            goal = np.array([row[p] if p >= 0 else -1 for p in parts])
            order = sorted(range(len(parts)), key=lambda a: (ranks[parts[a]], parts[a], a))
            places = np.zeros(len(parts), dtype=np.int64)
            for c in set(goal.tolist()) - {-1}:
                for place, a in enumerate(a for a in order if goal[a] == c):
                    places[a] = place
            same = (fine.options[node] == goal).all(axis=1) & (fine.ranks[node] == places).all(
                axis=1
            )
            known[key] = int(np.argmax(same))
        found.append(known[key])
    return tuple(found)


def spec_of(row: Ints, rank: int, mesh: LogicalMesh) -> Spec:
    """The spec that a state `[axes]` of a tensor stands for; partial sums are not its business."""
    dims: list[list[tuple[int, str]]] = [[] for _ in range(rank)]
    for axis, dim, place in zip(mesh.axes, dim_of(row), rank_of(row), strict=True):
        if dim >= 0 and axis.size > 1:
            dims[int(dim)].append((int(place), axis.name))
    return Spec(tuple(tuple(name for _, name in sorted(d)) for d in dims))


def enumerate_layouts(graph: Graph, mesh: LogicalMesh) -> Layouts:
    """All options of all nodes: every axis on any class it divides, or on none."""
    classes = tuple(_most_important(graph, node) for node in graph.nodes)
    known: dict[Taken | None, tuple[int, ...]] = {}

    def sizes(taken: Taken | None) -> tuple[int, ...]:
        """Of the axes; 1 for those that are spoken for, which so split nothing."""
        if taken not in known:
            gone = frozenset[str]() if taken is None else taken.on(mesh.sizes)
            known[taken] = tuple(1 if axis.name in gone else axis.size for axis in mesh.axes)
        return known[taken]

    # Of a size only what it shares with the mesh matters.
    found = [
        _options(tuple(gcd(graph.size[c], mesh.n_devices) for c in kept), sizes(node.taken))
        for node, kept in zip(graph.nodes, classes, strict=True)
    ]
    return Layouts(mesh, classes, tuple(o for o, _ in found), tuple(r for _, r in found))


@functools.lru_cache(maxsize=1024)
def _options(class_sizes: tuple[int, ...], axis_sizes: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Every assignment of axes to classes that divides, and every order of axes on one class."""
    rows: list[tuple[int, ...]] = []
    ranks: list[tuple[int, ...]] = []
    choices = [
        [-1, *(i for i, n in enumerate(class_sizes) if n % size == 0)] if size > 1 else [-1]
        for size in axis_sizes
    ]
    for row in itertools.product(*choices):
        if all(
            n % prod(axis_sizes[a] for a, c in enumerate(row) if c == i) == 0
            for i, n in enumerate(class_sizes)
        ):
            for order in _orders(row):
                rows.append(row)
                ranks.append(order)
    shape = (len(rows), len(axis_sizes))
    return (
        np.array(rows, dtype=np.int64).reshape(shape),
        np.array(ranks, dtype=np.int64).reshape(shape),
    )


def _orders(row: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The ranks that axes on the same class may have; mesh order first."""
    groups = [[a for a, c in enumerate(row) if c == i] for i in sorted(set(row) - {-1})]
    for orders in itertools.product(*(itertools.permutations(g) for g in groups)):
        rank = [0] * len(row)
        for order in orders:
            for place, a in enumerate(order):
                rank[a] = place
        yield tuple(rank)


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
