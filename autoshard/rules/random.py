"""Random numbers. Threefry counts elements, so every shard draws its own part of the stream."""

from __future__ import annotations

from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import Draft, OpView, leading_dims, whole_dims
from autoshard.rules.registry import register

# The tag of key types whose bits depend on nothing but key and position.
_COUNTING_KEY = "key<fry>"


@register("random_bits", "random_split")
def drawn(op: OpView) -> Rule:
    """`k->kij`: numbers, or new keys, per key. Other generators than threefry draw in order."""
    keys, out = op.in_shapes[0], op.out_shapes[0]
    draft = Draft()
    batch = draft.parallels(keys)
    new = out[len(keys) :]
    counting = op.in_dtypes[0] == _COUNTING_KEY
    made = draft.parallels(new) if counting else (None,) * len(new)
    return draft.rule([batch], [batch + made], OpClass.FUSIBLE)


@register("random_seed", "random_fold_in")
def keyed(op: OpView) -> Rule:
    """`k,k->k`: a key per seed, or per key and datum."""
    draft = Draft()
    (keys,) = op.out_shapes
    batch = draft.parallels(keys)
    operands = [
        tuple(f if size == out else None for f, size, out in zip(batch, shape, keys, strict=True))
        if shape
        else ()
        for shape in op.in_shapes
    ]
    return draft.rule(operands, [batch], OpClass.FUSIBLE)


@register("random_wrap", "random_unwrap", "to_edtype", "from_edtype")
def wrapped(op: OpView) -> Rule:
    """`k_->k` and back: words of a key, whole, as one element."""
    (before,), (after,) = op.in_shapes, op.out_shapes
    return leading_dims(op, min(len(before), len(after)), OpClass.FREE)


@register("random_gamma")
def random_gamma(op: OpView) -> Rule:
    """`k,kij->kij`: keys pair with leading dimensions; of the rest the sampler makes one list."""
    keys, shape = op.in_shapes
    draft = Draft()
    batch = draft.parallels(keys or shape[:1])
    dims = batch + (None,) * (len(shape) - len(batch))
    return draft.rule([batch if keys else (), dims], [dims], OpClass.MOVE)


@register("rng_bit_generator", "rng_uniform")
def in_order(op: OpView) -> Rule:
    """XLA's own generators: state that steps along the whole array."""
    return Draft().rule(whole_dims(op.in_shapes), whole_dims(op.out_shapes), OpClass.MOVE)
