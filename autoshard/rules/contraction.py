"""Matrix products: batch, m and n are parallel, the contracted dimensions leave partial sums."""

from __future__ import annotations

import math
from typing import Any

from autoshard.program.rule import Combiner, OpClass, Rule
from autoshard.rules.base import Draft, OpView, RuleError
from autoshard.rules.registry import register


def _free(rank: int, *used: Any) -> list[int]:
    taken = {d for dims in used for d in dims}
    return [d for d in range(rank) if d not in taken]


@register("dot_general")
def dot_general(op: OpView) -> Rule:
    """`bmk,bkn->bmn {k:add}`; 2 b m n k floating-point operations."""
    (l_sum, r_sum), (l_batch, r_batch) = op.params["dimension_numbers"]
    left, right = op.in_shapes[:2]
    draft = Draft()
    lhs: list[int | None] = [None] * len(left)
    rhs: list[int | None] = [None] * len(right)
    result: list[int | None] = []
    for i, j in zip(l_batch, r_batch, strict=True):
        lhs[i] = rhs[j] = draft.parallel(left[i])
        result.append(lhs[i])
    for i in _free(len(left), l_sum, l_batch):
        lhs[i] = draft.parallel(left[i])
        result.append(lhs[i])
    for j in _free(len(right), r_sum, r_batch):
        rhs[j] = draft.parallel(right[j])
        result.append(rhs[j])
    for i, j in zip(l_sum, r_sum, strict=True):
        lhs[i] = rhs[j] = draft.reduction(left[i], Combiner.ADD)
    flops = 2.0 * math.prod(op.out_shapes[0]) * math.prod(left[i] for i in l_sum)
    return draft.rule([lhs, rhs], [result], OpClass.MATMUL, flops)


@register("ragged_dot_general")
def ragged_dot_general(op: OpView) -> Rule:
    """A product per group of rows: `mk,gkn->mn`, group sizes known only at run time.

    Three forms, by the dimension of the left side that the groups cut: a free one (`mk,gkn->mn`),
    a contracted one (`mk,kn->gmn`) or a batch one (`bmk,bkn->bmn`). The cut dimension and the
    groups stay whole: where a group begins depends on the sizes of all groups before it. The rest
    is a plain product. Every row meets one group, so the work is that of one product.
    """
    numbers = op.params["ragged_dot_dimension_numbers"]
    (l_sum, r_sum), (l_batch, r_batch) = numbers.dot_dimension_numbers
    (ragged,) = numbers.lhs_ragged_dimensions
    groups = tuple(numbers.rhs_group_dimensions)
    left, right = op.in_shapes[:2]
    # With sizes per batch element, splitting the batch would split the sizes too.
    batch_splits = len(op.in_shapes[2]) == 1
    draft = Draft()
    lhs: list[int | None] = [None] * len(left)
    rhs: list[int | None] = [None] * len(right)
    result: list[int | None] = [None] if ragged in l_sum else []
    for i, j in zip(l_batch, r_batch, strict=True):
        if i != ragged and batch_splits:
            lhs[i] = rhs[j] = draft.parallel(left[i])
        result.append(lhs[i])
    free_left = _free(len(left), l_sum, l_batch)
    for i in free_left:
        if i != ragged:
            lhs[i] = draft.parallel(left[i])
        result.append(lhs[i])
    free_right = _free(len(right), r_sum, r_batch, groups)
    for j in free_right:
        rhs[j] = draft.parallel(right[j])
        result.append(rhs[j])
    for i, j in zip(l_sum, r_sum, strict=True):
        if i != ragged:
            lhs[i] = rhs[j] = draft.reduction(left[i], Combiner.ADD)
    if len(result) != len(op.out_shapes[0]):
        raise RuleError(f"{numbers} should give {len(result)} result dimensions")
    flops = 2.0 * math.prod(left) * math.prod(right[j] for j in free_right)
    sizes = [(None,) * len(shape) for shape in op.in_shapes[2:]]
    return draft.rule([lhs, rhs, *sizes], [result], OpClass.MATMUL, flops)
