"""What an expert layout is to the search: a restriction of every decision's options.

A strategy says, for each node, which options it would consider. The search then finds the best
layout within the restriction with the same costs and the same limit as for the automatic plan.
So an expert plan is a plan like any other, and every automatic plan can be held against it.

Nothing is said by name. What a strategy may ask is structural: is this dimension the batch, is
this node state at rest, the update of state, a matmul, or an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.search.build import MeshProblem
from autoshard.search.kinds import Kind, batch_classes, node_kinds
from autoshard.search.reduce import Keep

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class NodeView:
    """One node's options as a strategy sees them.

    Attributes:
        kind: what it holds.
        axis_on: axis name -> per option, whether the axis splits anything.
        axis_on_batch: axis name -> per option, whether it splits the batch.
    """

    kind: Kind
    axis_on: dict[str, Mask]
    axis_on_batch: dict[str, Mask]

    @property
    def any_option(self) -> Mask:
        """All options."""
        return np.ones_like(self.axis_on["data"])

    @property
    def batch_over_data(self) -> Mask:
        """The options that split the batch over `data`; where there is none, `data` is idle."""
        split = self.axis_on_batch["data"]
        return split if split.any() else ~self.axis_on["data"]

    @property
    def state_over_data(self) -> Mask:
        """The options that split anything over `data`; all where there is none."""
        split = self.axis_on["data"]
        return split if split.any() else self.any_option


@dataclass(frozen=True)
class Strategy:
    """An expert layout.

    Attributes:
        name: how users ask for it.
        source: the paper it comes from.
        needs: axes that must be larger than 1 for it to make sense.
        uses: axes it lays anything over; others are left idle.
        allows: which options of a node it considers; where none is left the node stays whole.
    """

    name: str
    source: str
    needs: frozenset[str]
    uses: frozenset[str]
    allows: Callable[[NodeView], Mask]


def restrict(numbers: MeshProblem, strategy: Strategy) -> Keep:
    """The options a strategy leaves to every node of a problem."""
    graph, layouts = numbers.analysis.graph, numbers.layouts
    batch = batch_classes(graph)
    kinds = node_kinds(graph, batch)
    axes = {axis.name: a for a, axis in enumerate(numbers.mesh.axes)}
    keep: Keep = []
    for node, kind in zip(graph.nodes, kinds, strict=True):
        options = layouts.options[node.id]
        is_batch = np.array([c in batch for c in layouts.classes[node.id]] + [False])
        # Strategies speak of `data` and `tensor`; an axis the mesh lacks splits nothing.
        nothing = dict.fromkeys(("data", "tensor"), np.zeros(len(options), dtype=bool))
        view = NodeView(
            kind=kind,
            axis_on=nothing | {name: options[:, a] >= 0 for name, a in axes.items()},
            axis_on_batch=nothing | {name: is_batch[options[:, a]] for name, a in axes.items()},
        )
        mask = strategy.allows(view)
        for name, a in axes.items():
            if name not in strategy.uses:
                mask = mask & (options[:, a] < 0)
        keep.append([int(i) for i in np.flatnonzero(mask)] or [0])
    return keep


__all__ = ["Kind", "Mask", "NodeView", "Strategy", "restrict"]
