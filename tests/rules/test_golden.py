"""The rules of real equations as text; one table per family."""

from itertools import chain

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.rules.equations import floats, ints, keys, text_of

A = floats(4, 6, 8)
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, w, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=NHWC, feature_group_count=groups
    )


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


def gradient(fn, wrt):
    """The gradient of a sum, whose equations are those of `fn`'s backward pass."""
    return jax.grad(lambda *args: (fn(*args) ** 2).sum(), wrt)


def embed(table, ids):
    return table.at[ids].get(mode="promise_in_bounds")


def along(x, ids):
    return jnp.take_along_axis(x, ids, axis=-1)


def ragged(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


def ragged_batch(numbers):
    return lambda x, w, sizes: lax.ragged_dot_general(x, w, sizes, numbers)


ELEMENTWISE = [
    ("add", lambda x: x + x, [A], "ijk,ijk->ijk"),
    ("mul", lambda x: x * 2.0, [A], "ijk,()->ijk"),
    ("mul", lax.mul, [floats(4, 1, 8), A], "i_j,ikj->ikj"),
    ("eq", lax.eq, [floats(4, 6, 1), floats(1, 1, 8)], "ij_,__k->ijk"),
    ("integer_pow", lambda x: x**3, [A], "ijk->ijk"),
    ("clamp", lambda x: lax.clamp(0.0, x, 1.0), [A], "(),ijk,()->ijk"),
    ("select_n", lambda p, x: lax.select_n(p < 0, x, x), [floats(), A], "(),ijk,ijk->ijk"),
    ("select_n", lambda p, x: lax.select_n(p < 0, x, x), [A, A], "ijk,ijk,ijk->ijk"),
    ("convert_element_type", lambda x: x.astype("bfloat16"), [A], "ijk->ijk"),
    ("stop_gradient", lax.stop_gradient, [A], "ijk->ijk"),
    ("optimization_barrier", lambda x, y: lax.optimization_barrier((x, y)), [A, floats(3)],
     "ijk,l->ijk,l"),
    ("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, jnp.int32), [A], "ijk->ijk"),
    ("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, jnp.int16), [A], "ijk->ijk_"),
]  # fmt: skip

REDUCTIONS = [
    ("reduce_sum", lambda x: x.sum((0, 2)), [A], "ijk->j {i:add,k:add}"),
    ("reduce_max", lambda x: x.max(1), [A], "ijk->ik {j:max}"),
    ("reduce_min", lambda x: x.min(1), [A], "ijk->ik {j:min}"),
    ("reduce_prod", lambda x: x.prod(1), [A], "ijk->ik {j:mul}"),
    ("reduce_and", lambda x: (x > 0).all(1), [A], "ijk->ik {j:and}"),
    ("reduce_or", lambda x: (x > 0).any(1), [A], "ijk->ik {j:or}"),
    ("argmax", lambda x: x.argmax(1), [A], "i_j->ij"),
    ("reduce", lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * b, (1,)), [A], "i_j,()->ij"),
    ("cumsum", lambda x: jnp.cumsum(x, 1), [A], "ijk->ijk {j:whole}"),
    ("sort", lambda x: lax.sort((x, x), dimension=1), [A], "ijk,ijk->ijk,ijk {j:whole}"),
    ("top_k", lambda x: lax.top_k(x, 3), [A], "ij_->ij_,ij_"),
    ("approx_top_k", lambda x: lax.approx_max_k(x, 3), [A], "ij_->ij_,ij_"),
]

LAYOUT = [
    ("broadcast_in_dim", lambda x: jnp.broadcast_to(x, (4, 6, 8)), [floats(8)], "i->jki"),
    ("broadcast_in_dim", lambda x: jnp.broadcast_to(x, (4, 6, 8)), [floats(6, 1)], "i_->jik"),
    ("iota", lambda: lax.broadcasted_iota(jnp.int32, (4, 1, 8), 0), [], "->i_j"),
    ("transpose", lambda x: x.transpose(2, 0, 1), [A], "ijk->kij"),
    ("squeeze", lambda x: lax.squeeze(x, (1,)), [floats(4, 1, 8)], "i_j->ij"),
    ("rev", lambda x: lax.rev(x, (1,)), [A], "ijk->ijk {j:whole}"),
]

RESHAPES = [
    ((4, 6, 8), (24, 8), "i_j->ij i=4 j=8"),
    ((24, 8), (4, 6, 8), "ij->i_j i=4 j=8"),
    ((4, 6, 64), (4, 6, 8, 8), "ijk->ijk_ i=4 j=6 k=8"),
    ((4, 6, 8), (4, 1, 6, 8, 1), "ijk->i_jk_ i=4 j=6 k=8"),
    ((1, 4, 1), (4,), "_i_->i i=4"),
    ((6, 4), (4, 6), "i_->i_ i=2"),
    ((9, 4), (4, 9), "__->__"),
    ((2, 3, 1, 20), (6, 4, 5), "i__j->ij_ i=2 j=4"),
    ((0, 4), (4, 0), "__->__"),
    ((1,), (), "_->()"),
]

PIECES = [
    ("slice", lambda x: x[:, 1:3], [A], "i_j->i_j"),
    ("slice", lambda x: lax.slice(x, (0, 0, 0), (4, 6, 8), (1, 2, 1)), [A], "i_j->i_j"),
    ("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i, 0, i), (2, 6, 8)), [A, ints()],
     "_ij,(),(),()->_ij"),
    ("dynamic_update_slice", lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i, 0)),
     [A, floats(4, 2, 8), ints()], "i_j,i_j,(),(),()->i_j"),
    ("pad", lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0))), [A], "i_j,()->i_j"),
    ("split", lambda x: jnp.split(x, 2, axis=1), [A], "i_j->i_j,i_j"),
    ("concatenate", lambda x, y: jnp.concatenate([x, y], 1), [A, floats(4, 2, 8)], "i_j,i_j->i_j"),
    ("tile", lambda x: jnp.tile(x, (1, 2, 1)), [A], "i_j->i_j"),
    ("reduce_window_max", pool, [A], "i_j->i_j"),
    ("select_and_scatter_add", gradient(pool, 0), [A], "i_j,i_j->i_j"),
    ("fft", lambda x: jnp.fft.rfft(x), [A], "___->___"),
    ("fft", lambda x: jnp.fft.rfft2(x), [A], "___->___"),
    ("cholesky", jnp.linalg.cholesky, [floats(3, 5, 5)], "i__->i__"),
    ("eigh", jnp.linalg.eigh, [floats(3, 5, 5)], "i__->i__,i_"),
    ("svd", lambda x: jnp.linalg.svd(x, full_matrices=False), [floats(3, 6, 5)], "i__->i_,i__,i__"),
    ("triangular_solve", lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
     [floats(3, 5, 5), floats(3, 5, 2)], "i__,i__->i__"),
    ("lu", lax.linalg.lu, [floats(3, 5, 5)], "i__->i__,i_,i_"),
]  # fmt: skip

GROUP_BATCH = lax.RaggedDotDimensionNumbers((((2,), (1,)), ((0,), (0,))), (2,), ())

CONTRACTIONS = [
    ("dot_general", lambda x, w: x @ w, [floats(4, 6), floats(6, 8)], "ij,jk->ik {j:add}"),
    ("dot_general", lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
     [floats(2, 16, 4, 8), floats(2, 32, 4, 8)], "ijkl,imkl->ikjm {l:add}"),
    ("dot_general", lambda x: jnp.einsum("ij,ij->", x, x), [floats(4, 6)],
     "ij,ij->() {i:add,j:add}"),
    ("dot_general", lambda x, w: x @ w, [floats(4, 1), floats(1, 8)], "i_,_j->ij"),
    ("ragged_dot_general", ragged, [floats(16, 8), floats(2, 8, 5), ints(2)],
     "_i,_ij,_->_j {i:add}"),
    ("ragged_dot_general", gradient(ragged, 1), [floats(16, 8), floats(2, 8, 5), ints(2)],
     "_i,_j,_->_ij"),
    ("ragged_dot_general", ragged_batch(GROUP_BATCH), [floats(3, 4, 8), floats(3, 8, 5), ints(2)],
     "ij_,i_k,_->_ijk"),
    ("ragged_dot_general", ragged_batch(GROUP_BATCH),
     [floats(3, 4, 8), floats(3, 8, 5), ints(3, 2)], "_i_,__j,__->__ij"),
]  # fmt: skip

X, W = floats(2, 10, 10, 8), floats(3, 3, 8, 16)
CONVOLUTIONS = [
    ("forward", conv, [X, W], "i__j,__jk->i__k {j:add}"),
    # The gradients contract output features and the batch.
    ("input gradient", gradient(conv, 0), [X, W], "i__j,__kj->i__k {j:add}"),
    ("kernel gradient", gradient(conv, 1), [X, W], "i__j,i__k->__jk {i:add}"),
    ("1x1", conv, [X, floats(1, 1, 8, 16)], "ijkl,__lm->ijkm {l:add}"),
    ("depthwise", lambda x, w: conv(x, w, groups=8), [X, floats(3, 3, 1, 16)],
     "i__j,___j->i__j"),
    ("depthwise input gradient", gradient(lambda x, w: conv(x, w, groups=8), 0),
     [X, floats(3, 3, 1, 16)], "____,____->____"),
    ("depthwise kernel gradient", gradient(lambda x, w: conv(x, w, groups=8), 1),
     [X, floats(3, 3, 1, 16)], "___i,___i->___i"),
]  # fmt: skip

INDEXING = [
    ("gather", embed, [floats(100, 16), ints(4, 8)], "ij,kl_->klj {i:add}"),
    ("gather", along, [A, ints(4, 6, 1)], "ijk,ij__->ij_ {k:add}"),
    ("gather", lambda x, i, j: x[i, :, j], [A, ints(5), ints(5)], "ijk,l_->lj {i:add,k:add}"),
    ("gather", lambda x, i: x[i], [jax.ShapeDtypeStruct((9, 4), bool), ints(5)],
     "ij,k_->kj {i:or}"),
    ("scatter-add", gradient(embed, 0), [floats(100, 16), ints(4, 8)],
     "ij,kl_,klj->ij {k:add,l:add}"),
    ("scatter-add", gradient(along, 0), [A, ints(4, 6, 1)], "ijk,ij__,ij_->ijk"),
    ("scatter", lambda x, i, u: x.at[i].set(u), [A, ints(5), floats(5, 6, 8)],
     "ijk,__,_jk->ijk"),
    ("scatter-max", lambda x, i, u: x.at[i].max(u), [A, ints(5), floats(5, 6, 8)],
     "ijk,__,_jk->ijk"),
    ("scatter", lambda x: x.at[1:3, :, 0].set(1.0), [A], "_ij,_,_i->_ij"),
]  # fmt: skip

RANDOM = [
    ("random_bits", lambda k: jax.random.bits(k, (4, 5)), [keys()], "()->ij"),
    ("random_bits", jax.vmap(lambda k: jax.random.bits(k, (4,))), [keys(3)], "i->ij"),
    ("random_split", lambda k: jax.random.split(k, 3), [keys()], "()->i"),
    ("random_fold_in", lambda k: jax.random.fold_in(k, 7), [keys()], "(),()->()"),
    ("random_fold_in", jax.vmap(jax.random.fold_in), [keys(3), ints(3)], "i,i->i"),
    ("random_wrap", lambda x: jax.random.wrap_key_data(x),
     [jax.ShapeDtypeStruct((3, 2), jnp.uint32)], "i_->i"),
    ("random_unwrap", jax.random.key_data, [keys(3)], "i->i_"),
    ("random_gamma", lambda k, a: jax.random.gamma(k, a), [keys(), floats(4, 5)], "(),i_->i_"),
    ("random_bits", lambda k: jax.random.bits(k, (4, 5)),
     [jax.ShapeDtypeStruct((), jax.random.key(0, impl="rbg").dtype)], "()->__"),
]  # fmt: skip

TABLES = [ELEMENTWISE, REDUCTIONS, LAYOUT, PIECES, CONTRACTIONS, INDEXING, RANDOM]


@pytest.mark.parametrize(("kind", "fn", "args", "expected"), [*chain(*TABLES)])
def test_text(kind, fn, args, expected):
    assert text_of(kind, fn, *args) == expected


@pytest.mark.parametrize(("before", "after", "expected"), RESHAPES)
def test_reshape(before, after, expected):
    text = text_of("reshape", lambda x: lax.reshape(x, after), floats(*before), sizes=True)
    assert text == expected


def test_reshape_that_permutes_first():
    fn = lambda x: lax.reshape(x, (48, 4), dimensions=(1, 2, 0))  # noqa: E731
    assert text_of("reshape", fn, A, sizes=True) == "ij_->ji i=4 j=6"


@pytest.mark.parametrize(
    ("fn", "args", "expected"), [c[1:] for c in CONVOLUTIONS], ids=[c[0] for c in CONVOLUTIONS]
)
def test_convolution(fn, args, expected):
    assert text_of("conv_general_dilated", fn, *args) == expected


def test_a_grouped_convolution_is_whole_unless_it_is_depthwise():
    # Features 8 = 8 groups of 1, then 2 groups of 4; outputs 16 = 8 groups of 2, then 2 of 8.
    fn = lambda groups: lambda x, w: conv(x, w, groups=groups)  # noqa: E731
    depthwise = text_of("conv_general_dilated", fn(8), X, floats(3, 3, 1, 16), sizes=True)
    assert depthwise == "i__j,___j->i__j i=2 j=8"
    assert text_of("conv_general_dilated", fn(2), X, floats(3, 3, 4, 16)) == "____,____->____"
