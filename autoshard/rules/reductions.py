"""Reductions, and scans along a dimension."""

from __future__ import annotations

from autoshard.program.rule import Combiner, OpClass, Rule
from autoshard.rules.base import Draft, OpView, same_dims
from autoshard.rules.registry import register

COMBINERS = {
    "reduce_sum": Combiner.ADD,
    "reduce_max": Combiner.MAX,
    "reduce_min": Combiner.MIN,
    "reduce_prod": Combiner.MUL,
    "reduce_and": Combiner.AND,
    "reduce_or": Combiner.OR,
}


@register(*COMBINERS)
def reduce(op: OpView) -> Rule:
    """`ij->i {j:add}`: shards of a reduced dimension hold partial results."""
    axes, combiner = set(op.params["axes"]), COMBINERS[op.kind]
    draft = Draft()
    dims = tuple(
        draft.reduction(size, combiner) if d in axes else draft.parallel(size)
        for d, size in enumerate(op.in_shapes[0])
    )
    kept = [factor for d, factor in enumerate(dims) if d not in axes]
    return draft.rule([dims], [kept], OpClass.FUSIBLE)


# The parameter that names the reduced dimensions. The position of a maximum does not combine on its
# own, a parity has no collective, and of a user's function nothing is known.
INDIVISIBLE = {"argmax": "axes", "argmin": "axes", "reduce_xor": "axes", "reduce": "dimensions"}


@register(*INDIVISIBLE)
def reduce_whole(op: OpView) -> Rule:
    """`ij->i` with j whole."""
    axes = set(op.params[INDIVISIBLE[op.kind]])
    draft = Draft()
    dims = tuple(
        None if d in axes else draft.parallel(size) for d, size in enumerate(op.in_shapes[0])
    )
    kept = tuple(factor for d, factor in enumerate(dims) if d not in axes)
    # `reduce` has an initial scalar for every array.
    operands = [dims if shape else () for shape in op.in_shapes]
    return draft.rule(operands, [kept] * len(op.out_shapes), OpClass.FUSIBLE)


@register("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(op: OpView) -> Rule:
    """`ij->ij {j:whole}`: every element needs the ones before it."""
    draft = Draft()
    axis = op.params["axis"]
    dims = [
        draft.whole(size) if d == axis else draft.parallel(size)
        for d, size in enumerate(op.in_shapes[0])
    ]
    return draft.rule([dims], [dims], OpClass.MOVE)


@register("sort")
def sort(op: OpView) -> Rule:
    """Keys and values ordered together along one dimension, which stays whole."""
    draft = Draft()
    along = op.params["dimension"]
    dims = [
        draft.whole(size) if d == along else draft.parallel(size)
        for d, size in enumerate(op.in_shapes[0])
    ]
    return draft.rule([dims] * len(op.in_shapes), [dims] * len(op.out_shapes), OpClass.MOVE)


TOP_K_AXIS = {"top_k": "axis", "approx_top_k": "reduction_dimension"}


@register(*TOP_K_AXIS)
def top_k(op: OpView) -> Rule:
    """The largest along one dimension, whole on both sides: `[.., n] -> [.., k], [.., k]`."""
    return same_dims(op, OpClass.MOVE, touched=[op.params[TOP_K_AXIS[op.kind]]])
