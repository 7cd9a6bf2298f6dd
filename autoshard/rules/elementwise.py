"""Elementwise ops: every dimension is parallel; XLA fuses them with their neighbours."""

from __future__ import annotations

from autoshard.program.rule import Dims, OpClass, Rule
from autoshard.rules.base import Draft, OpView, RuleError, leading_dims
from autoshard.rules.registry import register

UNARY = """
    abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil clz conj
    convert_element_type copy cos cosh digamma erf erf_inv erfc exp exp2 expm1 floor imag
    integer_pow is_finite lgamma log log1p log2 logistic neg not one_minus_square population_count
    real reduce_precision round rsqrt sign sin sinh sqrt square tan tanh
""".split()

BINARY = """
    add add_any and atan2 complex div eq eq_to ge gt igamma igamma_grad_a igammac le le_to lt lt_to
    max min mul mulhi ne nextafter or polygamma pow random_gamma_grad rem shift_left
    shift_right_arithmetic shift_right_logical sub xor zeta
""".split()

# `clamp` and `select_n` take scalars for their bounds and their predicate.
NARY = """
    clamp polynomial regularized_incomplete_beta select_n threefry2x32
    threefry4x32
""".split()

# Names for the same bytes. `dim_as_value` is a scalar that is known when the program is traced.
RENAMING = (
    "dim_as_value layout_constraint name random_clone reshard sharding_constraint"
    " stop_gradient".split()
)


def aligned(op: OpView, op_class: OpClass) -> Rule:
    """Dimensions correspond by position; size 1 broadcasts, and so do scalars."""
    shape = op.out_shapes[0] if op.out_shapes else ()
    draft = Draft()
    dims = draft.parallels(shape)

    def fit(other: tuple[int, ...]) -> Dims:
        if not other:
            return ()
        if len(other) != len(shape):
            raise RuleError(f"an operand of rank {len(other)} meets a result of rank {len(shape)}")
        fitted: list[int | None] = []
        for size, out, factor in zip(other, shape, dims, strict=True):
            if size not in (1, out):
                raise RuleError(f"size {size} meets size {out}: neither equal nor 1")
            fitted.append(factor if size == out else None)
        return tuple(fitted)

    return draft.rule(map(fit, op.in_shapes), map(fit, op.out_shapes), op_class)


@register(*UNARY, *BINARY, *NARY)
def elementwise(op: OpView) -> Rule:
    """`ij,ij->ij`; JAX lets equal-rank operands broadcast where their size is 1."""
    return aligned(op, OpClass.FUSIBLE)


@register(*RENAMING)
def renaming(op: OpView) -> Rule:
    """The operand under another name."""
    return aligned(op, OpClass.FREE)


@register("optimization_barrier", "device_put")
def each_to_each(op: OpView) -> Rule:
    """Operand k becomes result k; operands have nothing to do with one another."""
    draft = Draft()
    dims = [draft.parallels(shape) for shape in op.out_shapes]
    return draft.rule(dims, dims, OpClass.FUSIBLE)


@register("bitcast_convert_type")
def bitcast_convert_type(op: OpView) -> Rule:
    """Bits read as another type; a change of width adds or removes a last, whole dimension."""
    (before,), (after,) = op.in_shapes, op.out_shapes
    return leading_dims(op, min(len(before), len(after)), OpClass.FREE)
