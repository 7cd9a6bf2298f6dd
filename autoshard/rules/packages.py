"""Primitives of other people's packages, by the names under which these define them."""

from __future__ import annotations

from autoshard.program.rule import Combiner, OpClass, Rule
from autoshard.rules.base import Draft, OpView
from autoshard.rules.elementwise import aligned
from autoshard.rules.registry import register

# Equinox: marks on a value for its transformations, which are over once a step is traced, and a
# selection by a scalar.
_MARKS = ("nonbatchable", "nondifferentiable_backward", "nontraceable")
# Equinox: over all dimensions, those of `vmap` included, to a scalar.
_OVER_ALL = {
    "unvmap_all": Combiner.AND,
    "unvmap_any": Combiner.OR,
    "unvmap_max": Combiner.MAX,
}


@register(*_MARKS)
def mark(op: OpView) -> Rule:
    """`ij->ij`, the same values."""
    return aligned(op, OpClass.FREE)


@register("select_if_vmap")
def selection(op: OpView) -> Rule:
    """`(),ij,ij->ij`."""
    return aligned(op, OpClass.FUSIBLE)


@register(*_OVER_ALL)
def over_all(op: OpView) -> Rule:
    """`ij->() {i:or,j:or}`."""
    draft = Draft()
    dims = tuple(draft.reduction(size, _OVER_ALL[op.kind]) for size in op.in_shapes[0])
    return draft.rule([dims], [()], OpClass.FUSIBLE)
