"""Cutting and joining: slices, pads, concatenation, windows.

Along the dimensions an op cuts or joins, its shards would have to exchange elements, so those stay
whole; the others are parallel. A cut of full extent is no cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import Draft, OpView, leading_dims, same_dims, whole_dims
from autoshard.rules.registry import register


def _where(changes: Iterable[bool]) -> list[int]:
    return [d for d, changed in enumerate(changes) if changed]


def _unequal(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return _where(x != y for x, y in zip(a, b, strict=True))


@register("slice")
def slice_(op: OpView) -> Rule:
    """`x[a:b:s]` with fixed bounds."""
    strides = op.params["strides"] or (1,) * len(op.in_shapes[0])
    cut = _unequal(op.in_shapes[0], op.out_shapes[0])
    cut += _where(stride != 1 for stride in strides)
    return same_dims(op, OpClass.FUSIBLE, touched=cut)


@register("dynamic_slice")
def dynamic_slice(op: OpView) -> Rule:
    """A slice whose start is computed; the starts are scalars."""
    return same_dims(
        op, OpClass.FUSIBLE, touched=_unequal(op.in_shapes[0], op.params["slice_sizes"])
    )


@register("dynamic_update_slice")
def dynamic_update_slice(op: OpView) -> Rule:
    """`operand, update, *starts`: write a slice whose start is computed."""
    return same_dims(op, OpClass.MOVE, touched=_unequal(op.in_shapes[0], op.in_shapes[1]))


@register("pad")
def pad(op: OpView) -> Rule:
    """`operand, value`: (low, high, interior) per dimension."""
    config = op.params["padding_config"]
    return same_dims(op, OpClass.FUSIBLE, touched=_where(tuple(c) != (0, 0, 0) for c in config))


@register("split")
def split(op: OpView) -> Rule:
    """One operand, many results along an axis."""
    return same_dims(op, OpClass.FUSIBLE, touched=[op.params["axis"]])


@register("concatenate")
def concatenate(op: OpView) -> Rule:
    """Many operands, one result along a dimension."""
    return same_dims(op, OpClass.MOVE, touched=[op.params["dimension"]])


@register("stack", "unstack")
def stack(op: OpView) -> Rule:
    """Equal arrays along a new dimension, and back: the new dimension stays whole."""
    axis = op.params["axis"]
    joining = op.kind == "stack"
    draft = Draft()
    piece = draft.parallels((op.in_shapes if joining else op.out_shapes)[0])
    joined = (*piece[:axis], None, *piece[axis:])
    if joining:
        return draft.rule([piece] * len(op.in_shapes), [joined], OpClass.MOVE)
    return draft.rule([joined], [piece] * len(op.out_shapes), OpClass.FUSIBLE)


@register("tile")
def tile(op: OpView) -> Rule:
    """Repeat: a repeated dimension would interleave the shards' copies."""
    return same_dims(op, OpClass.FUSIBLE, touched=_where(n != 1 for n in op.params["reps"]))


WINDOWED = """
    reduce_window reduce_window_max reduce_window_min reduce_window_sum
    select_and_gather_add select_and_scatter select_and_scatter_add
""".split()


@register(*WINDOWED)
def windowed(op: OpView) -> Rule:
    """Pooling and its gradients: dimensions with a window of 1 are untouched."""
    p = op.params
    rank = len(p["window_dimensions"])
    ones = (1,) * rank
    touched = _unequal(p["window_dimensions"], ones) + _unequal(p["window_strides"], ones)
    for dilation in ("base_dilation", "window_dilation"):
        touched += _unequal(p.get(dilation) or ones, ones)
    touched += _where(tuple(pair) != (0, 0) for pair in p["padding"])
    return same_dims(op, OpClass.MOVE, touched=touched)


@register("fft")
def fft(op: OpView) -> Rule:
    """Whole, batches too: XLA's partitioner gathers the operand of a transform that is split.

    See https://docs.jax.dev/en/latest/jax.experimental.custom_partitioning.html.
    """
    return Draft().rule(whole_dims(op.in_shapes), whole_dims(op.out_shapes), OpClass.MOVE)


# Dimensions of the first operand that are the problem; the ones before are a batch of problems.
LINEAR_ALGEBRA = {
    "cholesky": 2,
    "cholesky_update": 2,
    "eig": 2,
    "eigh": 2,
    "geqp3": 2,
    "geqrf": 2,
    "hessenberg": 2,
    "householder_product": 2,
    "lu": 2,
    "lu_pivots_to_permutation": 1,
    "ormqr": 2,
    "qr": 2,
    "schur": 2,
    "svd": 2,
    "symmetric_product": 2,
    "triangular_solve": 2,
    "tridiagonal": 2,
    "tridiagonal_solve": 1,
}


@register(*LINEAR_ALGEBRA)
def linear_algebra(op: OpView) -> Rule:
    """A batch of independent problems; each is solved whole."""
    return leading_dims(op, len(op.in_shapes[0]) - LINEAR_ALGEBRA[op.kind], OpClass.MOVE)
