"""Sharding rules as data: the factors of one op's iteration space.

A factor is a named dimension of the loop nest an op stands for: `m, k, n` of a matmul. The rule
says which factor each dimension of each operand and result runs over; everything downstream
(which layouts are legal, what they cost, which partial sums appear) is derived from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Dims = tuple[int | None, ...]


class FactorKind(Enum):
    """What happens when a mesh axis splits a factor."""

    PARALLEL = "parallel"  # every shard computes its own part of the results
    REDUCTION = "reduction"  # every shard holds a partial result, to be combined over the axis
    WHOLE = "whole"  # may not be split: the op needs to see all of it


class Combiner(Enum):
    """How partial results of a split reduction factor become the result."""

    ADD = "add"
    MAX = "max"
    MIN = "min"
    MUL = "mul"
    AND = "and"
    OR = "or"


class OpClass(Enum):
    """How an op spends time and whether its results are stored."""

    MATMUL = "matmul"  # runs on the matrix unit; operands and results live in memory
    CONV = "conv"  # the same, for convolutions
    FUSIBLE = (
        "fusible"  # joins its neighbours in one loop: stored only when a non-fusible op reads it
    )
    MOVE = "move"  # reads and writes memory on its own: gather, scatter, sort, concatenate, ...
    FREE = "free"  # no work and no copy: reshape, bitcast, boundaries of regions
    SEND = "send"  # a collective that the program itself writes, in code for one shard
    OPAQUE = "opaque"  # no rule, or nothing known: whole operands, whole results

    @property
    def is_light(self) -> bool:
        """Whether the op is mere arithmetic per element, or no work at all."""
        return self in (OpClass.FUSIBLE, OpClass.FREE)

    @property
    def is_matrix(self) -> bool:
        """Whether the op runs on the matrix unit."""
        return self in (OpClass.MATMUL, OpClass.CONV)


@dataclass(frozen=True, slots=True)
class Factor:
    """One dimension of an op's iteration space.

    Attributes:
        size: how many steps it has; an axis may split it only when the axis size divides this.
        kind: what splitting means.
        combiner: how partial results combine; set exactly for REDUCTION factors.
    """

    size: int
    kind: FactorKind = FactorKind.PARALLEL
    combiner: Combiner | None = None

    def __post_init__(self) -> None:
        if (self.combiner is not None) != (self.kind is FactorKind.REDUCTION):
            raise ValueError(f"a combiner belongs to REDUCTION factors and to no others: {self}")


@dataclass(frozen=True, slots=True)
class Rule:
    """The sharding rule of one op.

    Attributes:
        factors: the iteration space.
        operands: per operand, per dimension: an index into `factors`, or None where the op
            needs the dimension whole (or its size is 1). Scalars and literals have no dimensions.
        results: the same for results. A dimension that merges several factors (a reshape's
            `(h d)`) names its major one; factor sizes keep divisibility right.
        op_class: how the op spends its time.
        flops: floating-point operations of the whole, unsharded op.
        known: False when no rule exists and everything was left whole.
    """

    factors: tuple[Factor, ...]
    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    op_class: OpClass
    flops: float = 0.0
    known: bool = True

    def __post_init__(self) -> None:
        for dims in (*self.operands, *self.results):
            named = [f for f in dims if f is not None]
            if len(set(named)) != len(named):
                raise ValueError(f"a factor stands on two dimensions of one tensor: {self}")
            if any(not 0 <= f < len(self.factors) for f in named):
                raise ValueError(f"a dimension names a factor that does not exist: {self}")
        for dims in self.results:
            if any(f is not None and self.factors[f].kind is FactorKind.REDUCTION for f in dims):
                raise ValueError(f"a reduction factor stands on a result: {self}")
