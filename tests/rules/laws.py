"""What a rule promises, checked against the op itself.

Shards law. Cut every operand along a factor. A parallel factor: the op on the cut operands gives
the cut result. A reduction factor: the results of all pieces, combined, give the result.

What compilers make of a rule is tried in split.py.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard.program.rule import Combiner, FactorKind, Rule
from tests.rules.equations import rule_of

SHARDS = 2

COMBINE = {
    Combiner.ADD: operator.add,
    Combiner.MUL: operator.mul,
    Combiner.MAX: np.maximum,
    Combiner.MIN: np.minimum,
    Combiner.AND: np.logical_and,
    Combiner.OR: np.logical_or,
}


@dataclass(frozen=True)
class Case:
    """An op as a function of its operands, of any size they may be cut to.

    Attributes:
        kind: the primitive `fn` consists of.
        fn: takes exactly the primitive's operands, or leaves out literals at the end.
        args: the whole operands.
        piece: `piece(shard, *cut operands)` for operands and factors whose shards must know which
            shard they are (lookups): by the (operand, dimension) that the factor stands on.
    """

    kind: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    piece: Mapping[tuple[int, int], Callable[..., Any]] = field(default_factory=dict)

    @functools.cached_property
    def rule(self) -> Rule:
        return rule_of(self.kind, self.fn, *self.args)

    def place(self, factor: int) -> tuple[int, int]:
        """The first (operand, dimension) that a factor stands on."""
        return next(
            (k, d)
            for k, dims in enumerate(self.rule.operands)
            for d, f in enumerate(dims)
            if f == factor
        )

    @property
    def splittable(self) -> list[int]:
        """Factors on operands that may be split over two shards."""
        on_operands = {f for dims in self.rule.operands for f in dims}
        return [
            i
            for i, f in enumerate(self.rule.factors)
            if i in on_operands and f.kind is not FactorKind.WHOLE and f.size % SHARDS == 0
        ]


def cut(x, dims, factor, shard):
    """The part of an array that a shard holds."""
    if factor not in dims:
        return x
    d = dims.index(factor)
    size = x.shape[d] // SHARDS
    return jax.lax.slice_in_dim(x, shard * size, (shard + 1) * size, axis=d)


def check_shards(case, factor):
    rule, combiner = case.rule, case.rule.factors[factor].combiner
    special = case.piece.get(case.place(factor))

    @jax.jit  # one program for all pieces: quicker than op by op
    def evaluate(args):
        pieces = []
        for shard in range(SHARDS):
            dims = zip(args, rule.operands, strict=False)
            operands = [cut(x, d, factor, shard) for x, d in dims]
            out = special(shard, *operands) if special else case.fn(*operands)
            pieces.append(jax.tree.leaves(out))
        return pieces, jax.tree.leaves(case.fn(*args))

    pieces, expected = evaluate(case.args)
    if combiner is not None:
        parts = zip(*pieces, strict=True)
        pieces = [[functools.reduce(COMBINE[combiner], part) for part in parts]]
    for shard, piece in enumerate(pieces):
        for got, want, dims in zip(piece, expected, rule.results, strict=True):
            part = cut(want, dims, factor, shard)
            assert got.shape == part.shape
            np.testing.assert_allclose(got, part, rtol=2e-5, atol=1e-5)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def indices(limit, *shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, limit, size=shape), jnp.int32)
