"""Ops that rename, add, drop or permute dimensions without touching values."""

from __future__ import annotations

from math import gcd

from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import Draft, OpView, RuleError
from autoshard.rules.registry import register


@register("broadcast_in_dim")
def broadcast_in_dim(op: OpView) -> Rule:
    """`j->ij`: new and stretched dimensions are free, every shard fills its own part."""
    draft = Draft()
    (shape,) = op.out_shapes
    dims = draft.parallels(shape)
    places = op.params["broadcast_dimensions"]
    operand = [
        dims[place] if size == shape[place] else None
        for size, place in zip(op.in_shapes[0], places, strict=True)
    ]
    # Further operands exist only under dynamic shapes: scalars that give sizes.
    return draft.rule([operand, *[()] * (len(op.in_shapes) - 1)], [dims], OpClass.FUSIBLE)


@register("iota", "iota_2x32_shape", "empty", "empty2", "platform_index")
def iota(op: OpView) -> Rule:
    """`->ij`: every shard counts (or allocates) its own part."""
    draft = Draft()
    dims = draft.parallels(op.out_shapes[0])
    return draft.rule([()] * len(op.in_shapes), [dims] * len(op.out_shapes), OpClass.FUSIBLE)


@register("transpose")
def transpose(op: OpView) -> Rule:
    """`ij->ji`. Free: XLA picks memory layouts so that few transposes copy anything."""
    draft = Draft()
    dims = draft.parallels(op.in_shapes[0])
    return draft.rule([dims], [[dims[d] for d in op.params["permutation"]]], OpClass.FREE)


@register("squeeze")
def squeeze(op: OpView) -> Rule:
    """Drop dimensions of size 1."""
    draft = Draft()
    dims = draft.parallels(op.in_shapes[0])
    gone = set(op.params["dimensions"])
    return draft.rule([dims], [[f for d, f in enumerate(dims) if d not in gone]], OpClass.FREE)


@register("rev")
def rev(op: OpView) -> Rule:
    """`ij->ij {j:whole}`: reversing would swap shards."""
    draft = Draft()
    reverse = set(op.params["dimensions"])
    dims = [
        draft.whole(size) if d in reverse else draft.parallel(size)
        for d, size in enumerate(op.in_shapes[0])
    ]
    return draft.rule([dims], [dims], OpClass.FUSIBLE)


@register("reshape")
def reshape(op: OpView) -> Rule:
    """Dimensions are kept, split or merged; of a split or merge only the major part is tied.

    With row-major order, n equal shards of the major dimension on one side hold the same elements
    as n shards of the major dimension on the other side, exactly if n divides both sizes. So the
    shared factor has the greatest common divisor for its size: `(8 16) -> 128` is a factor of 8.
    """
    before, after = op.in_shapes[0], op.out_shapes[0]
    order = op.params.get("dimensions") or tuple(range(len(before)))
    operand: list[int | None] = [None] * len(before)
    result: list[int | None] = [None] * len(after)
    draft = Draft()
    for left, right in groups(tuple(before[d] for d in order), after):
        i, j = order[left], right
        operand[i] = result[j] = draft.parallel(gcd(before[i], after[j]))
    return draft.rule([operand, *[()] * (len(op.in_shapes) - 1)], [result], OpClass.FREE)


def groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[int, int]]:
    """The major dimensions of the smallest runs of dimensions with equal products.

    Args:
        before: sizes.
        after: sizes with the same product.

    Returns:
        Per run its first dimension on either side; sizes 1 belong to no run. Example:
        `(2, 3, 1, 20), (6, 4, 5)` has runs `2 3 | 20` and `6 | 4 5`: `[(0, 0), (3, 1)]`.
    """
    if 0 in before or 0 in after:
        return []
    left = [d for d, size in enumerate(before) if size > 1]
    right = [d for d, size in enumerate(after) if size > 1]
    found: list[tuple[int, int]] = []
    a, b = 0, 0
    while a < len(left) and b < len(right):
        found.append((left[a], right[b]))
        have, want = before[left[a]], after[right[b]]
        a, b = a + 1, b + 1
        while have != want:
            if have < want and a < len(left):
                have, a = have * before[left[a]], a + 1
            elif want < have and b < len(right):
                want, b = want * after[right[b]], b + 1
            else:
                raise RuleError(
                    f"{list(before)} and {list(after)} have different numbers of elements"
                )
    return found
