"""What an expert layout is to the search: a restriction of every decision's options.

A strategy says, axis by axis and for each node, which options it would consider. The search then
finds the best layout within the restriction with the same costs and the same limit as for the
automatic plan. So an expert plan is a plan like any other, and every automatic plan can be held
against it.

Nothing is said by name. What a strategy may ask is structural (`search/anatomy.py`): what does
this node hold, is it part of the residual stream, which options split the batch, the sequence,
the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from autoshard.errors import StrategyError
from autoshard.plan.pipeline import PIPE
from autoshard.search.anatomy import Classes
from autoshard.search.build import Analysis, Look, MeshProblem
from autoshard.search.kinds import AT_REST, WITHOUT_BATCH, Kind
from autoshard.search.problem import Ints
from autoshard.search.reduce import Keep

Mask = NDArray[np.bool_]

# The axis that splits the batch where a strategy says nothing else of it.
BATCH_AXIS = "data"


@dataclass(frozen=True)
class View:
    """One node's options as a strategy sees them along one axis.

    Attributes:
        kind: what the node holds.
        residual: whether it is part of the residual stream.
        product: whether it is a product with a weight, or one that makes a weight's gradient.
        on: per option, whether the axis splits anything.
        on_batch, on_sequence, on_experts: per option, whether it splits these.
    """

    kind: Kind
    residual: bool
    product: bool
    on: Mask
    on_batch: Mask
    on_sequence: Mask
    on_experts: Mask

    @property
    def any_option(self) -> Mask:
        """All options."""
        return np.ones_like(self.on)

    @property
    def idle(self) -> Mask:
        """The options that leave the axis idle: whole along it."""
        return ~self.on

    @property
    def split(self) -> Mask:
        """The options that split anything; idle where nothing can be split."""
        return self.or_idle(self.on)

    @property
    def batch(self) -> Mask:
        """The options that split the batch; idle where there is none to split."""
        return self.or_idle(self.on_batch)

    def or_idle(self, wanted: Mask) -> Mask:
        """The wanted options; idle where there are none of them."""
        return wanted if wanted.any() else self.idle


# Which options of a node an expert considers, as far as one axis is concerned.
Rule = Callable[[View], Mask]


class Demand(Enum):
    """What a program must have for a strategy to mean anything."""

    OPTIMIZER = "optimizer state"
    SEQUENCE = "sequence"
    EXPERTS = "experts"


@dataclass(frozen=True)
class Strategy:
    """An expert layout.

    Attributes:
        name: how users ask for it.
        source: the paper it comes from.
        rules: by axis, for every axis it must have. Another axis is idle, but `data` splits the
            batch, and so does `pipe` outside of stages.
        demands: by axis of `rules`, what the program must have, and have divided by the axis.
    """

    name: str
    source: str
    rules: Mapping[str, Rule]
    demands: Mapping[str, Demand] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """Axes that must be larger than 1 for it to make sense."""
        return frozenset(self.rules)

    @property
    def uses(self) -> frozenset[str]:
        """Axes it lays anything over."""
        return self.needs | {BATCH_AXIS, PIPE}


def replicas(view: View) -> Mask:
    """The rule of data parallelism: the batch is split, everything without a batch is whole."""
    return view.batch


def over_stages(view: View) -> Mask:
    """The rule of an axis of stages, outside of them: examples are dealt out, state lies anyhow.

    Whose layers lie on which stage is no question of layouts; what is, is pinned. There may be too
    few examples for `data` and the stages: then every stage has all of its shard's.
    """
    return view.any_option if view.kind in WITHOUT_BATCH else view.on_batch | view.idle


def _idle(view: View) -> Mask:
    return view.idle


def combined(*parts: Strategy) -> Strategy:
    """Several strategies at once, each over its own axes.

    Raises:
        StrategyError: two of them lay out the same axis.
    """
    rules: dict[str, Rule] = {}
    demands: dict[str, Demand] = {}
    for part in parts:
        for axis in part.rules:
            if axis in rules:
                other = next(p.name for p in parts if axis in p.rules)
                raise StrategyError(
                    f"{other!r} and {part.name!r} both lay out axis {axis!r}; combine strategies"
                    " of different axes, such as 'zero1+megatron'"
                )
        rules |= part.rules
        demands |= part.demands
    return Strategy(
        name="+".join(p.name for p in parts),
        source="; ".join(p.source for p in parts),
        rules=rules,
        demands=demands,
    )


def restrict(numbers: MeshProblem, strategy: Strategy) -> Keep:
    """The options a strategy leaves to every node of a problem.

    Raises:
        StrategyError: the program has nothing that the strategy is about.
    """
    if why := lacking(numbers.analysis, strategy) or undivided(numbers, strategy):
        raise StrategyError(f"strategy={strategy.name!r} does not apply: {why}")
    otherwise = {BATCH_AXIS: replicas, PIPE: over_stages}
    rules = [
        strategy.rules.get(axis.name, otherwise.get(axis.name, _idle)) for axis in numbers.mesh.axes
    ]
    # Nodes that look the same and have the same options are told the same, once.
    found: dict[tuple[int, int], list[int]] = {}
    keep: Keep = []
    for look, options in zip(numbers.looks, numbers.layouts.options, strict=True):
        key = (id(look), id(options))
        if key not in found:
            found[key] = _left(look, options, rules)
        keep.append(found[key])
    return keep


def _left(look: Look, options: Ints, rules: Sequence[Rule]) -> list[int]:
    """The options `[options, axes]` of a node that the rules of all axes leave."""
    if len(options) == 1:
        return [0]
    # One entry more than there are classes: what -1, "splits nothing", looks up.
    batch, sequence, experts = (
        np.array([*told, False]) for told in (look.batch, look.sequence, look.experts)
    )
    mask = np.ones(len(options), dtype=bool)
    for a, rule in enumerate(rules):
        on = options[:, a]
        mask &= rule(
            View(
                kind=look.kind,
                residual=look.residual,
                product=look.product,
                on=on >= 0,
                on_batch=batch[on],
                on_sequence=sequence[on],
                on_experts=experts[on],
            )
        )
    # Rules of two axes may want the same dimension, too small for both: then it stays whole.
    return [int(i) for i in np.flatnonzero(mask)] or [0]


def lacking(analysis: Analysis, strategy: Strategy) -> str:
    """What a program lacks for a strategy to mean anything; "" if nothing."""
    demands = strategy.demands.values()
    return "; ".join(_WHY_NOT[d] for d in demands if not _demanded(analysis, d))


def undivided(numbers: MeshProblem, strategy: Strategy) -> str:
    """What a strategy would split and the mesh does not divide; "" if there is no such thing."""
    sizes, size = numbers.mesh.sizes, numbers.analysis.graph.size
    for axis, demand in strategy.demands.items():
        have = {size[c] for c in _demanded(numbers.analysis, demand)}
        if all(n % sizes.get(axis, 1) for n in have):
            shown = " and ".join(str(n) for n in sorted(have))
            return f"{demand.value} of {shown} cannot be divided by {axis} {sizes[axis]}"
    return ""


def _demanded(analysis: Analysis, demand: Demand) -> Classes:
    """The classes that must be there."""
    if demand is Demand.SEQUENCE:
        return analysis.anatomy.sequence
    if demand is Demand.EXPERTS:
        return analysis.anatomy.experts
    nodes = zip(analysis.graph.nodes, analysis.anatomy.kinds, strict=True)
    return frozenset(c for n, kind in nodes if kind is Kind.OPTIMIZER for c in n.classes)


_WHY_NOT = {
    Demand.OPTIMIZER: "the program updates no optimizer state",
    Demand.SEQUENCE: (
        "no sequence: besides the batch, no dimension of a residual stream is carried along by"
        " products with weights"
    ),
    Demand.EXPERTS: (
        "no experts: no dimension that weights and activations share batches a matmul (grouped"
        " products over ragged rows stay whole)"
    ),
}

__all__ = [
    "AT_REST",
    "BATCH_AXIS",
    "WITHOUT_BATCH",
    "Demand",
    "Kind",
    "Mask",
    "Rule",
    "Strategy",
    "View",
    "combined",
    "lacking",
    "replicas",
    "restrict",
    "undivided",
]
