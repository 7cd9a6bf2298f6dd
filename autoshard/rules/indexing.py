"""Gather and scatter, by dimension numbers (the semantics are those of XLA's two ops).

Every dimension of the indexed array is one of:

* batching: paired with a dimension of the indices;
* passed through: taken in full, a dimension of the slices;
* looked up: one element is taken. Split, every shard looks up what it holds and masks the rest:
  a gather leaves partial sums (vocabulary-sharded embeddings), a scatter writes its own part;
* cut: some of it is taken. Stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from autoshard.program.rule import Combiner, OpClass, Rule
from autoshard.rules.base import Draft, OpView
from autoshard.rules.registry import register


def _rest(rank: int, *used: Iterable[int]) -> list[int]:
    taken = {d for dims in used for d in dims}
    return [d for d in range(rank) if d not in taken]


@register("gather")
def gather(op: OpView) -> Rule:
    """`ve,bs_->bse {v:add}`: an embedding lookup, and every other indexing that reads.

    The index vector (last dimension of the indices) stays whole. Masked shards hold zeros, so
    their sum is the result; for booleans, their disjunction.
    """
    numbers, window = op.params["dimension_numbers"], op.params["slice_sizes"]
    array, indices, out = op.in_shapes[0], op.in_shapes[1], op.out_shapes[0]
    combiner = Combiner.OR if op.in_dtypes[0] == "bool" else Combiner.ADD
    draft = Draft()
    index_dims = (*draft.parallels(indices[:-1]), None)
    result: list[int | None] = [None] * len(out)
    batch = _rest(len(out), numbers.offset_dims)
    for place, factor in zip(batch, index_dims[:-1], strict=True):
        result[place] = factor

    operand: list[int | None] = [None] * len(array)
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    for d, i in pairs:
        operand[d] = index_dims[i]
    kept = _rest(len(array), numbers.collapsed_slice_dims, numbers.operand_batching_dims)
    for d, place in zip(kept, sorted(numbers.offset_dims), strict=True):
        if window[d] == array[d]:
            operand[d] = result[place] = draft.parallel(array[d])
    for d in numbers.start_index_map:
        if window[d] == 1 and array[d] > 1:
            operand[d] = draft.reduction(array[d], combiner)
    return draft.rule([operand, index_dims], [result], OpClass.MOVE)


ADDING = ("scatter-add", "scatter_add", "scatter-sub", "scatter_sub")
OTHERS = ("scatter", *(f"scatter{c}{f}" for c in "-_" for f in ("mul", "min", "max")))
SCATTERS = frozenset((*ADDING, *OTHERS))


@register(*ADDING, *OTHERS)
def scatter(op: OpView) -> Rule:
    """`ve,bs_,bse->ve {b:add,s:add}`: the gradient of a lookup, and all indexing that writes.

    Splitting the updates of a sum leaves partial sums, if the array that is added to counts once:
    in all shards but one it is zero. For other ways to combine, updates stay whole.
    """
    numbers = op.params["dimension_numbers"]
    array, indices, updates = op.in_shapes
    draft = Draft()
    operand: list[int | None] = [None] * len(array)
    update: list[int | None] = [None] * len(updates)
    index_dims: list[int | None] = [None] * len(indices)

    batch = _rest(len(updates), numbers.update_window_dims)
    paired = dict(
        zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    for i, place in enumerate(batch):
        if i in paired:
            operand[paired[i]] = index_dims[i] = update[place] = draft.parallel(indices[i])
        elif op.kind in ADDING:
            index_dims[i] = update[place] = draft.reduction(indices[i], Combiner.ADD)

    kept = _rest(len(array), numbers.inserted_window_dims, numbers.operand_batching_dims)
    window = dict.fromkeys(numbers.inserted_window_dims, 1)
    for d, place in zip(kept, sorted(numbers.update_window_dims), strict=True):
        window[d] = updates[place]
        if window[d] == array[d]:
            operand[d] = update[place] = draft.parallel(array[d])
    for d in numbers.scatter_dims_to_operand_dims:
        if window[d] == 1 and array[d] > 1:
            operand[d] = draft.parallel(array[d])
    return draft.rule([operand, index_dims, update], [operand], OpClass.MOVE)
