"""Convolutions, forward and both gradients: they differ in dimension numbers only."""

from __future__ import annotations

from functools import lru_cache

from autoshard.program.rule import Combiner, OpClass, Rule
from autoshard.rules.base import Draft, OpView, whole_dims
from autoshard.rules.registry import register


@register("conv_general_dilated")
def conv_general_dilated(op: OpView) -> Rule:
    """`bixy,oixy->boxy {i:add}`, by dimension numbers.

    Spatial dimensions stay whole (neighbours would have to exchange halos), unless the window is
    a single point. With feature groups the group is the major part of input features, kernel
    outputs and output features, with batch groups that of batch, kernel outputs and output
    features: a parallel factor of the number of groups; what lies within a group stays whole.

    Two things stay whole because XLA's partitioner has no right answer for them. Feature groups of
    several input features are gathered, the batch too, and may even come out wrong
    (https://github.com/openxla/xla/issues/47945). Partial sums of batch groups are added over all
    devices, those included that hold the same part.
    """
    p = op.params
    numbers = p["dimension_numbers"]
    lhs_spec, rhs_spec, out_spec = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    feature_groups, batch_groups = p["feature_group_count"], p["batch_group_count"]
    left, right, out = op.in_shapes[0], op.in_shapes[1], op.out_shapes[0]
    draft = Draft()
    lhs: list[int | None] = [None] * len(left)
    rhs: list[int | None] = [None] * len(right)
    result: list[int | None] = [None] * len(out)
    (l_batch, l_feature), (r_out, r_in), (o_batch, o_feature) = (
        lhs_spec[:2],
        rhs_spec[:2],
        out_spec[:2],
    )
    if batch_groups > 1:
        group = draft.parallel(batch_groups)
        lhs[l_batch] = rhs[r_out] = result[o_feature] = group
    else:
        lhs[l_batch] = result[o_batch] = draft.parallel(left[l_batch])
    if feature_groups > 1:
        group = draft.parallel(feature_groups)
        lhs[l_feature] = rhs[r_out] = result[o_feature] = group
    elif batch_groups == 1:
        lhs[l_feature] = rhs[r_in] = draft.reduction(left[l_feature], Combiner.ADD)
    if feature_groups == batch_groups == 1:
        rhs[r_out] = result[o_feature] = draft.parallel(right[r_out])

    pairs = 1  # of a position in the result and one in the window, summed by this op
    spatial = zip(lhs_spec[2:], rhs_spec[2:], out_spec[2:], strict=True)
    for s, (i, w, o) in enumerate(spatial):
        stride, padding = p["window_strides"][s], tuple(p["padding"][s])
        dilation = p["lhs_dilation"][s]
        if right[w] == stride == dilation == 1 and padding == (0, 0):
            lhs[i] = result[o] = draft.parallel(left[i])
        pairs *= _meetings(
            left[i], right[w], out[o], stride, padding[0], dilation, p["rhs_dilation"][s]
        )
    flops = 2.0 * pairs * out[o_batch] * out[o_feature] * right[r_in]
    if feature_groups > 1 and right[r_in] > 1:
        whole = whole_dims((left, right, out))
        return Draft().rule(whole[:2], whole[2:], OpClass.CONV, flops)
    return draft.rule([lhs, rhs], [result], OpClass.CONV, flops)


@lru_cache(maxsize=1024)
def _meetings(
    size: int, window: int, out: int, stride: int, low: int, dilation: int, window_dilation: int
) -> int:
    """How many (output, window) positions meet an element that is neither padding nor a hole.

    As XLA counts (HloCostAnalysis::HandleConvolution): multiplications by padding are not work.
    """
    last = (size - 1) * dilation
    total = 0
    for k in range(window):
        first = k * window_dilation - low
        if dilation == 1:
            # positions first + i * stride in [0, last], 0 <= i < out
            lowest = max(0, -(first // stride))
            highest = min(out - 1, (last - first) // stride)
            total += max(0, highest - lowest + 1)
        else:
            total += sum(
                0 <= at <= last and at % dilation == 0
                for at in range(first, first + out * stride, stride)
            )
    return total
