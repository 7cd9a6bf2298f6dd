"""What laws are tried on: functions of a few primitives, with operands whose sizes are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives as prims
from jax.scipy import special

from tests.rules.drawn import (
    Operand,
    bits,
    complexes,
    definite,
    keys,
    large,
    positive,
    real,
    truth,
    unit,
    whole,
)

linalg = lax.linalg


@dataclass(frozen=True)
class Case:
    """A function and its operands.

    Attributes:
        fn: of the operands, under `vmap` and `vjp` too.
        operands: drawn anew for every trial.
        no_gradient: why there is no reverse mode; "" where there is.
        batched: the ways of `vmap` that JAX has for it: over first dimensions, over last ones, over
            the first operand alone.
    """

    fn: Callable[..., Any]
    operands: tuple[Operand, ...]
    no_gradient: str = ""
    batched: tuple[str, ...] = ("first", "last", "one")


def every(*fns: Callable[..., Any]) -> Callable[..., Any]:
    """The results of all functions."""
    return lambda *args: [fn(*args) for fn in fns]


def bound(name: str, **params: Any) -> Callable[..., Any]:
    """A primitive that no public function reaches alone."""
    return lambda *args: getattr(prims, name).bind(*args, **params)


NO_FLOATS = "no floats"
UNDEFINED = "JAX defines none"

ELEMENTWISE = {
    "any real": Case(
        every(
            jnp.abs, jnp.sign, lax.floor, lax.ceil, lax.round, lax.is_finite, lax.neg, lax.exp,
            lax.exp2, lax.expm1, lax.sin, lax.cos, lax.tanh, lax.sinh, lax.cosh, lax.asinh,
            lax.atan, lax.erf, lax.erfc, lax.logistic, lax.cbrt, lax.square,
            lambda x: lax.integer_pow(x, 3),
            lambda x: lax.reduce_precision(x, 8, 4), lambda x: x.astype(jnp.bfloat16),
            prims.copy_p.bind, lambda x: checkpoint_name(x, "name"), lax.stop_gradient,
            lax.bessel_i0e, lax.bessel_i1e, jax.device_put, lax.optimization_barrier,
            lambda x: x + x, lambda x: lax.clamp(-1.0, x, 1.0),
        ),
        (real("mn"),),
    ),
    "between -1 and 1": Case(
        every(lax.tan, lax.asin, lax.acos, lax.atanh, lax.erf_inv), (unit("mn"),)
    ),
    "positive": Case(
        every(lax.log, jnp.log2, lax.log1p, lax.sqrt, lax.rsqrt, lax.lgamma, lax.digamma),
        (positive("mn"),),
    ),
    "above 1": Case(every(lax.acosh), (large("mn"),)),
    "two reals": Case(
        every(
            lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.atan2, lax.nextafter, lax.rem,
            lax.eq, lax.ne, lax.ge, lax.gt, lax.le, lax.lt, lax.complex,
        ),
        (real("mn"), real("mn")),
        no_gradient="nextafter has none; the others are taken by `gradients of two`",
    ),
    "gradients of two": Case(
        every(
            lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.atan2, lax.rem, lax.pow,
            lax.complex,
        ),
        (positive("mn"), positive("mn")),
    ),
    "one broadcasts": Case(every(lax.add, lax.mul, lax.max), (real("1n"), real("mn"))),
    "total order": Case(
        every(bound("eq_to_p"), bound("le_to_p"), bound("lt_to_p")),
        (real("mn"), real("mn")),
        no_gradient=NO_FLOATS,
    ),
    "gamma": Case(every(lax.igamma, lax.igammac), (positive("mn"), positive("mn"))),
    "gamma by its parameter": Case(
        every(bound("igamma_grad_a_p"), lax.zeta),
        (large("mn"), large("mn")),
        no_gradient=UNDEFINED,
    ),
    "polygamma": Case(
        lambda x: lax.polygamma(jnp.ones_like(x), x), (positive("mn"),), no_gradient=UNDEFINED
    ),
    "beta": Case(
        lambda a, b, x: special.betainc(a, b, jnp.abs(x)),
        (positive("mn"), positive("mn"), unit("mn")),
        no_gradient=UNDEFINED,
    ),
    "select": Case(lambda p, x, y: lax.select_n(p, x, y), (truth("mn"), real("mn"), real("mn"))),
    "integers": Case(
        every(
            lax.bitwise_and, lax.bitwise_or, lax.bitwise_xor, lax.shift_left,
            lax.shift_right_arithmetic, lax.shift_right_logical,
            lambda x, y: lax.clz(x), lambda x, y: lax.bitwise_not(x),
            lambda x, y: lax.population_count(x),
        ),
        (bits("mn"), bits("mn")),
        no_gradient=NO_FLOATS,
    ),
    "complex": Case(every(lax.real, lax.imag, lax.conj, lax.abs), (complexes("mn"),)),
    "bits as another type": Case(
        every(
            lambda x: lax.bitcast_convert_type(x, jnp.int32),
            lambda x: lax.bitcast_convert_type(x, jnp.uint16),
        ),
        (real("mn"),),
    ),
}  # fmt: skip

REDUCTIONS = {
    "reductions": Case(
        every(
            lambda x: jnp.sum(x, (0, 2)), lambda x: x.max(1), lambda x: x.min(0),
            lambda x: x.prod(1), lambda x: lax.argmax(x, 1, jnp.int32),
            lambda x: lax.argmin(x, 2, jnp.int32),
        ),
        (unit("mnk"),),
    ),
    "of truths": Case(
        every(lambda x: lax.reduce_and(x, (1,)), lambda x: lax.reduce_or(x, (1,))),
        (truth("mnk"),),
        no_gradient=NO_FLOATS,
    ),
    "parity": Case(lambda x: lax.reduce_xor(x, (1,)), (bits("mn"),), no_gradient=NO_FLOATS),
    "by a function": Case(
        lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * b, (1,)), (real("mn"),),
        no_gradient=UNDEFINED,
    ),
    "along a dimension": Case(
        every(
            lambda x: lax.cumsum(x, 1), lambda x: lax.cumprod(x, 1), lambda x: lax.cummax(x, 1),
            lambda x: lax.cummin(x, 0), lambda x: lax.cumlogsumexp(x, 1, reverse=True),
        ),
        (unit("mn"),),
    ),
    "sort": Case(lambda x, y: lax.sort((x, y), dimension=1, num_keys=1), (real("mn"), real("mn"))),
    "top_k": Case(lambda x: lax.top_k(x, 2), (real("mnk"),)),
    "approximate top_k": Case(lambda x: lax.approx_max_k(x, 2), (real("mnk"),)),
}  # fmt: skip


def counted(x):
    return x + lax.broadcasted_iota(jnp.int32, x.shape, 1)


LAYOUT = {
    "layout": Case(
        every(
            lambda x: lax.broadcast_in_dim(x, (4, *x.shape), (1, 2, 3)),
            lambda x: x.transpose(2, 0, 1), lambda x: lax.rev(x, (1,)),
            lambda x: x.reshape(-1, x.shape[2]), lambda x: x.reshape(x.shape[0], -1),
            lambda x: x.reshape(x.shape[0], x.shape[1], -1, 2) if x.shape[2] % 2 == 0 else x,
            lambda x: x.reshape(-1),
        ),
        (real("mnk"),),
    ),
    "size 1": Case(
        every(
            lambda x: lax.squeeze(x, (1,)),
            lambda x: lax.broadcast_in_dim(x, (x.shape[0], 8, x.shape[2]), (0, 1, 2)),
            lambda x: x[:, :, None],
        ),
        (real("m1k"),),
    ),
    "counting": Case(counted, (whole("mn"),), no_gradient=NO_FLOATS),
}  # fmt: skip


def pool(reduce_window):
    return lambda x: reduce_window(
        x,
        window_dimensions=(1, 2, 1),
        window_strides=(1, 2, 1),
        padding=((0, 0), (0, 0), (0, 0)),
        base_dilation=(1, 1, 1),
        window_dilation=(1, 1, 1),
    )


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


def sum_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 1, 1), "SAME")


def min_pool(x):
    return lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 1), (1, 2, 1), "VALID")


def odd_pool(x):
    return lax.reduce_window(x, 0.0, lambda a, b: a + b * b, (1, 2, 1), (1, 2, 1), "VALID")


def scattered(g, x):
    """The larger of every pair gets a number, at the smallest of equal ones."""
    from jax._src.lax.windowed_reductions import _select_and_scatter

    return _select_and_scatter(
        x, lax.ge, (1, 2, 1), (1, 2, 1), ((0, 0),) * 3, g, jnp.float32(0), lambda a, b: a + 2 * b
    )


def gathered(t, x):
    return prims.select_and_gather_add_p.bind(
        t,
        x,
        select_prim=lax.ge_p,
        window_dimensions=(1, 2, 1),
        window_strides=(1, 2, 1),
        padding=((0, 0),) * 3,
        base_dilation=(1, 1, 1),
        window_dilation=(1, 1, 1),
    )


PIECES = {
    "pieces": Case(
        every(
            lambda x: x[:, 1:4], lambda x: x[:, ::2], lambda x: lax.split(x, (2, 6), axis=1),
            lambda x: lax.pad(x, 0.5, ((0, 0, 0), (1, 2, 1), (0, 0, 0))),
            lambda x: lax.tile(x, (1, 2, 1)), lambda x: jnp.unstack(x, axis=1),
        ),
        (real("m8k"),),
    ),
    "joined": Case(
        every(
            lambda x, y: jnp.concatenate([x, y], 1), lambda x, y: jnp.stack([x, x], axis=1)
        ),
        (real("mnk"), real("m2k")),
    ),
    "at an index": Case(
        lambda x, u, i: (
            lax.dynamic_slice(x, (0, i, 0), (x.shape[0], 2, x.shape[2])),
            lax.dynamic_update_slice(x, u, (0, i, 0)),
        ),
        (real("m8k"), real("m2k"), whole("", below="8")),
    ),
    "pools": Case(every(max_pool, sum_pool, min_pool), (real("m8k"),)),
    "pool by a function": Case(odd_pool, (real("m8k"),), no_gradient=UNDEFINED),
    "marks of pools": Case(gathered, (real("m8k"), real("m8k"))),
    "scattered to the largest": Case(
        scattered, (real("m4k"), real("m8k")), no_gradient=UNDEFINED, batched=()
    ),
    "fourier": Case(every(jnp.fft.rfft, jnp.fft.rfft2), (real("mn8"),)),
    "fourier back": Case(every(jnp.fft.fft, jnp.fft.ifft), (complexes("m8"),)),
}  # fmt: skip

NO_DERIVATIVE = "JAX has no derivative of it"
LINEAR_ALGEBRA = {
    "factored": Case(
        every(linalg.cholesky, lambda x: linalg.lu(x)[0], linalg.eigh, jnp.linalg.svd),
        (definite("b44"),),
    ),
    "factored by": Case(
        every(lambda x: linalg.qr(x, full_matrices=False),
              lambda x: jnp.linalg.svd(x, full_matrices=False)),
        (real("b64"),),
    ),
    "of any matrix": Case(
        every(
            linalg.eig, linalg.schur, linalg.hessenberg, linalg.tridiagonal,
            lambda x: linalg.lu_pivots_to_permutation(linalg.lu(x)[1], 4),
        ),
        (definite("b44"),),
        no_gradient=NO_DERIVATIVE,
    ),
    "reflectors": Case(
        linalg.householder_product, (real("b44"), real("b4")), no_gradient=NO_DERIVATIVE
    ),
    "triangular": Case(
        lambda a, b: linalg.triangular_solve(a, b, left_side=True, lower=True),
        (definite("b44"), real("b43")),
    ),
    "tridiagonal": Case(
        linalg.tridiagonal_solve, (unit("b4"), large("b4"), unit("b4"), real("b42"))
    ),
}  # fmt: skip


def scores(q, k):
    return lax.dot_general(q, k, (((3,), (3,)), ((0, 2), (0, 2))))


def ragged(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


CONTRACTIONS = {
    "matmul": Case(lambda x, w: x @ w, (real("mk"), real("kn"))),
    "attention scores": Case(scores, (real("bqhd"), real("bkhd"))),
    "all of it": Case(lambda x, y: jnp.einsum("ij,ij->", x, y), (real("mn"), real("mn"))),
    "two sums": Case(lambda x, y: jnp.einsum("mij,ijn->mn", x, y), (real("mij"), real("ijn"))),
    "ragged": Case(
        ragged,
        (real("8k"), real("2kn"), Operand("2", lambda rng, s: jnp.array([2, 6], jnp.int32))),
        batched=("first",),
    ),
}  # fmt: skip


def conv(stride=1, padding="SAME", **kwargs):
    """NHWC; the groups follow from the shapes."""
    return lambda x, w: lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // w.shape[2],
        **kwargs,
    )


def grouped(x, w):
    """Groups times channels as features."""
    return conv()(x.reshape(*x.shape[:3], -1), w)


CONVOLUTIONS = {
    "convolution": Case(conv(), (real("b44c"), real("33cf"))),
    "strided": Case(conv(2), (real("b44c"), real("33cf"))),
    "dilated": Case(conv(rhs_dilation=(2, 2)), (real("b44c"), real("33cf"))),
    "of points": Case(conv(padding="VALID"), (real("bhwc"), real("11cf"))),
    "depthwise": Case(conv(), (real("b44c"), real("331c"))),
    "grouped": Case(lambda x, w: conv()(x, w), (real("b448"), real("334f"))),
}


def at(table, ids):
    return table.at[ids].get(mode="fill", fill_value=0)


def adding(mode):
    def update(x, ids, updates):
        return getattr(x.at[ids], mode)(updates)

    return update


INDEXING = {
    "lookup": Case(at, (real("ve"), whole("bs", below="v"))),
    "clipped lookup": Case(
        lambda t, i: t.at[i].get(mode="clip"), (real("ve"), whole("b", below="v"))
    ),
    "lookup along": Case(
        lambda x, i: jnp.take_along_axis(x, i[..., None], -1), (real("mnv"), whole("mn", below="v"))
    ),
    "lookup of two": Case(
        lambda x, i, j: x[i, :, j],
        (real("vew"), whole("b", below="v"), whole("b", below="w")),
    ),
    "lookup of truths": Case(lambda x, i: x[i], (truth("ve"), whole("b", below="v")),
                             no_gradient=NO_FLOATS),
    "added at": Case(adding("add"), (real("ve"), whole("b", below="v"), real("be"))),
    "set at": Case(
        lambda x, u: x.at[jnp.arange(u.shape[0])].set(u), (real("8e"), real("4e"))
    ),
    "multiplied at": Case(
        adding("multiply"), (real("ve"), whole("b", below="v"), real("be")),
        no_gradient="of indices that are not unique",
    ),
    "largest at": Case(
        every(adding("max"), adding("min")), (real("ve"), whole("b", below="v"), real("be")),
        no_gradient=UNDEFINED,
    ),
}  # fmt: skip

RANDOM = {
    "of keys": Case(
        every(
            lambda k: jax.vmap(lambda one: jax.random.bits(one, (4, 8)))(k),
            lambda k: jax.vmap(lambda one: jax.random.split(one, 8))(k),
            lambda k: jax.vmap(lambda one: jax.random.fold_in(one, 7))(k),
            lambda k: jax.random.wrap_key_data(jax.random.key_data(k)),
            jax.random.clone,
        ),
        (keys("k"),),
        no_gradient=NO_FLOATS,
    ),
    "of one key": Case(
        every(
            lambda k: jax.random.bits(k, (4, 8)), lambda k: jax.random.split(k, 8),
            lambda k: jax.random.normal(k, (4, 8)),
        ),
        (keys(""),),
        no_gradient=NO_FLOATS,
    ),
    "of seeds": Case(jax.vmap(jax.random.key), (whole("m"),), no_gradient=NO_FLOATS),
    "gamma": Case(
        lambda k, a: jax.random.gamma(k, a), (keys(""), positive("mn")), no_gradient=UNDEFINED
    ),
    "threefry": Case(
        lambda k, x: prims.threefry2x32_p.bind(k, k, x, x), (bits(""), bits("mn")),
        no_gradient=NO_FLOATS,
    ),
    "another generator": Case(
        lambda k: lax.rng_bit_generator(k, (4, 8)), (bits("4"),), no_gradient=NO_FLOATS
    ),
}  # fmt: skip

CASES: dict[str, Case] = {
    **ELEMENTWISE, **REDUCTIONS, **LAYOUT, **PIECES, **LINEAR_ALGEBRA, **CONTRACTIONS,
    **CONVOLUTIONS, **INDEXING, **{f"random {name}": case for name, case in RANDOM.items()},
}  # fmt: skip
