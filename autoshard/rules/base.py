"""What a sharding rule sees of an equation, and the tools rules are written with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.errors import AutoshardError
from autoshard.program.rule import Combiner, Dims, Factor, FactorKind, OpClass, Rule


class RuleError(AutoshardError, ValueError):
    """A primitive has a rule, but the equation is not of the form the rule was written for."""


@dataclass(frozen=True, slots=True)
class OpView:
    """One equation, as a rule sees it.

    Attributes:
        kind: the primitive's name.
        in_shapes: one per operand, literals included (shape `()`).
        in_dtypes: one per operand, as text: "float32", "key<fry>".
        out_shapes: one per result.
        out_dtypes: one per result.
        params: the equation's parameters as they are; objects such as gather's dimension numbers
            are read by attribute, so that rules need no JAX.
    """

    kind: str
    in_shapes: tuple[tuple[int, ...], ...]
    in_dtypes: tuple[str, ...]
    out_shapes: tuple[tuple[int, ...], ...]
    out_dtypes: tuple[str, ...]
    params: Mapping[str, Any]

    def __str__(self) -> str:
        def side(dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
            pairs = zip(dtypes, shapes, strict=True)
            return ", ".join(f"{dtype}{list(shape)}" for dtype, shape in pairs)

        before, after = side(self.in_dtypes, self.in_shapes), side(self.out_dtypes, self.out_shapes)
        return f"{self.kind}({before}) -> {after}"


RuleFn = Callable[[OpView], Rule]


class Draft:
    """Collects the factors of a rule while it is written."""

    def __init__(self) -> None:
        self.factors: list[Factor] = []

    def _add(self, factor: Factor) -> int | None:
        if factor.size <= 1:  # nothing to split: such dimensions are None everywhere
            return None
        self.factors.append(factor)
        return len(self.factors) - 1

    def parallel(self, size: int) -> int | None:
        """A factor whose shards compute their own part of the results."""
        return self._add(Factor(size))

    def reduction(self, size: int, combiner: Combiner) -> int | None:
        """A factor whose shards hold partial results."""
        return self._add(Factor(size, FactorKind.REDUCTION, combiner))

    def whole(self, size: int) -> int | None:
        """A factor that may not be split."""
        return self._add(Factor(size, FactorKind.WHOLE))

    def parallels(self, sizes: Iterable[int]) -> Dims:
        """A new parallel factor per dimension."""
        return tuple(self.parallel(size) for size in sizes)

    def rule(
        self,
        operands: Iterable[Iterable[int | None]],
        results: Iterable[Iterable[int | None]],
        op_class: OpClass,
        flops: float = 0.0,
    ) -> Rule:
        """The finished rule. `flops` counts work of the matrix unit only."""
        return Rule(
            factors=tuple(self.factors),
            operands=tuple(tuple(dims) for dims in operands),
            results=tuple(tuple(dims) for dims in results),
            op_class=op_class,
            flops=flops,
        )


def whole_dims(shapes: Iterable[tuple[int, ...]]) -> tuple[Dims, ...]:
    """Every dimension whole, for each shape."""
    return tuple((None,) * len(shape) for shape in shapes)


def opaque(op: OpView) -> Rule:
    """The rule of what nothing is known about: whole operands, whole results."""
    return Rule(
        factors=(),
        operands=whole_dims(op.in_shapes),
        results=whole_dims(op.out_shapes),
        op_class=OpClass.OPAQUE,
        known=False,
    )


def same_dims(op: OpView, op_class: OpClass, touched: Iterable[int] = ()) -> Rule:
    """Operands and results correspond dimension by dimension, except where the op works.

    Args:
        op: its first result has the leading rank; scalars among the operands have no part.
        op_class: how the op spends its time.
        touched: dimensions along which the op works, whole on both sides. Others must have
            equal sizes in every operand and result.

    Raises:
        RuleError: operands differ in rank, or in the size of an untouched dimension.
    """
    shape = op.out_shapes[0]
    skip = {d % len(shape) for d in touched}
    draft = Draft()
    dims = tuple(None if d in skip else draft.parallel(size) for d, size in enumerate(shape))

    def fit(other: tuple[int, ...]) -> Dims:
        if not other:
            return ()
        if len(other) != len(shape) or any(
            a != b for d, (a, b) in enumerate(zip(other, shape, strict=True)) if d not in skip
        ):
            raise RuleError(f"expected {list(other)} to match {list(shape)} except in {skip}")
        return dims

    return draft.rule(map(fit, op.in_shapes), map(fit, op.out_shapes), op_class)


def leading_dims(op: OpView, count: int, op_class: OpClass) -> Rule:
    """The first `count` dimensions correspond everywhere; those behind them stay whole."""
    draft = Draft()
    batch = draft.parallels(op.in_shapes[0][:count])

    def fit(shape: tuple[int, ...]) -> Dims:
        if len(shape) < count or shape[:count] != op.in_shapes[0][:count]:
            raise RuleError(f"{list(shape)} does not begin with {op.in_shapes[0][:count]}")
        return batch + (None,) * (len(shape) - count)

    return draft.rule(map(fit, op.in_shapes), map(fit, op.out_shapes), op_class)
