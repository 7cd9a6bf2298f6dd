"""Rules hold for real ops: see laws.py for what that means."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.rules.laws import Case, check_shards, indices, numbers

X = numbers(4, 6, 8)


def conv(x, w, **kwargs):
    """NHWC; the groups follow from the shapes, so that cut operands have fewer of them."""
    return lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // w.shape[2],
        **kwargs,
    )


def depthwise_kernel_gradient(x, g):
    """As JAX writes it: channels are batch groups, the batch is contracted."""
    return lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=x.shape[3],
    )


def kernel_gradient(x, g):
    return lax.conv_general_dilated(
        x, g, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC")
    )


def input_gradient(g, w):
    """Of a convolution with stride 2: holes between the elements of `g`."""
    return lax.conv_general_dilated(
        g,
        w,
        (1, 1),
        ((2, 1), (2, 1)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )


EMBED = lax.GatherDimensionNumbers(
    offset_dims=(2,), collapsed_slice_dims=(0,), start_index_map=(0,)
)
ADD = lax.ScatterDimensionNumbers(
    update_window_dims=(2,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)
ALONG = lax.GatherDimensionNumbers(
    offset_dims=(),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0,),
    start_indices_batching_dims=(0,),
)
ADD_ALONG = lax.ScatterDimensionNumbers(
    update_window_dims=(),
    inserted_window_dims=(1,),
    scatter_dims_to_operand_dims=(1,),
    operand_batching_dims=(0,),
    scatter_indices_batching_dims=(0,),
)


def take(table, ids):
    sizes = (1, table.shape[1])
    return lax.gather(table, ids, EMBED, sizes, mode="fill", fill_value=0)


def take_along(x, ids):
    return lax.gather(x, ids, ALONG, (1, 1), mode="fill", fill_value=0)


def add_at(table, ids, updates):
    return lax.scatter_add(table, ids, updates, ADD, mode="drop")


def add_along(x, ids, updates):
    return lax.scatter_add(x, ids, updates, ADD_ALONG, mode="drop")


def set_at(table, ids, updates):
    return lax.scatter(table, ids, updates, ADD, mode="drop")


def looked_up(fn, dim):
    """A shard of the looked-up dimension: indices count from its beginning, the rest is masked."""

    def piece(shard, table, ids, *updates):
        local = ids - shard * table.shape[dim]
        # Negative indices are out of bounds for gather and scatter, not counted from the end.
        return fn(table, local, *updates)

    return piece


def added_once(fn):
    """A shard of a sum's updates: the array that is added to counts in the first shard only."""

    def piece(shard, table, ids, updates):
        return fn(table * (shard == 0), ids, updates)

    return piece


def ragged(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


def unpool(g, x):
    return jax.vjp(pool, x)[1](g)[0]


T, IDS, UPDATES = numbers(16, 8), indices(16, 4, 6, 1), numbers(4, 6, 8)
KEYS = jax.random.key_data(jax.random.split(jax.random.key(0), 4))

CASES = {
    "add": Case("add", lambda x, y: x + y, (X, X)),
    "broadcasting mul": Case("mul", lax.mul, (numbers(4, 1, 8), X)),
    "select": Case("select_n", lambda p, x, y: lax.select_n(p, x, y), (X > 0, X, -X)),
    "sum": Case("reduce_sum", lambda x: x.sum((0, 2)), (X,)),
    "max": Case("reduce_max", lambda x: x.max(1), (X,)),
    "prod": Case("reduce_prod", lambda x: x.prod(1), (X,)),
    "any": Case("reduce_or", lambda x: lax.reduce_or(x, (1,)), (X > 1.5,)),
    "all": Case("reduce_and", lambda x: lax.reduce_and(x, (1,)), (X > -1.5,)),
    "argmax": Case("argmax", lambda x: lax.argmax(x, 1, jnp.int32), (X,)),
    "cumsum": Case("cumsum", lambda x: lax.cumsum(x, 1), (X,)),
    "sort": Case("sort", lambda x, y: lax.sort((x, y), dimension=1, num_keys=1), (X, -X)),
    "top_k": Case(
        "top_k",
        lambda x: lax.top_k(x, 3),
        (X,),
    ),
    "transpose": Case("transpose", lambda x: x.transpose(2, 0, 1), (X,)),
    "broadcast": Case(
        "broadcast_in_dim", lambda x: jnp.broadcast_to(x, (3, *x.shape)), (numbers(6, 8),)
    ),
    "reverse": Case("rev", lambda x: lax.rev(x, (1,)), (X,)),
    "merge": Case("reshape", lambda x: x.reshape(-1, x.shape[2]), (X,)),
    "split dim": Case("reshape", lambda x: x.reshape(x.shape[0], x.shape[1], -1, 2), (X,)),
    "regroup": Case("reshape", lambda x: x.reshape(-1, 12), (numbers(8, 6),)),
    "slice": Case("slice", lambda x: x[:, 1:4], (X,)),
    "dynamic slice": Case(
        "dynamic_slice",
        lambda x, i, j, k: lax.dynamic_slice(x, (i, j, k), (x.shape[0], 2, x.shape[2])),
        (X, jnp.int32(0), jnp.int32(3), jnp.int32(0)),
    ),
    "dynamic update": Case(
        "dynamic_update_slice",
        lambda x, u, i, j, k: lax.dynamic_update_slice(x, u, (i, j, k)),
        (X, numbers(4, 2, 8), jnp.int32(0), jnp.int32(3), jnp.int32(0)),
    ),
    "pad": Case(
        "pad", lambda x, v: lax.pad(x, v, ((0, 0, 0), (1, 2, 1), (0, 0, 0))), (X, X[0, 0, 0])
    ),
    "concatenate": Case("concatenate", lambda x, y: jnp.concatenate([x, y], 1), (X, X[:, :2])),
    "split": Case("split", lambda x: lax.split(x, (2, 4), axis=1), (X,)),
    "tile": Case("tile", lambda x: lax.tile(x, (1, 2, 1)), (X,)),
    "max pool": Case("reduce_window_max", pool, (X,)),
    "max pool gradient": Case("select_and_scatter_add", unpool, (numbers(4, 3, 8), X)),
    "cholesky": Case(
        "cholesky", lax.linalg.cholesky, (jnp.eye(3) * jnp.arange(1.0, 5.0)[:, None, None],)
    ),
    "matmul": Case("dot_general", lambda x, w: x @ w, (numbers(4, 6), numbers(6, 8))),
    "attention scores": Case(
        "dot_general",
        lambda q, k: lax.dot_general(q, k, (((3,), (3,)), ((0, 2), (0, 2)))),
        (numbers(2, 6, 4, 8), numbers(2, 10, 4, 8)),
    ),
    "ragged dot": Case(
        "ragged_dot_general", ragged, (numbers(6, 8), numbers(2, 8, 4), jnp.array([2, 4]))
    ),
    "conv": Case("conv_general_dilated", conv, (numbers(2, 6, 6, 8), numbers(3, 3, 8, 4))),
    "1x1 conv": Case("conv_general_dilated", conv, (numbers(2, 6, 4, 8), numbers(1, 1, 8, 4))),
    "depthwise conv": Case(
        "conv_general_dilated", conv, (numbers(2, 6, 6, 8), numbers(3, 3, 1, 16))
    ),
    "input gradient": Case(
        "conv_general_dilated", input_gradient, (numbers(2, 4, 4, 8), numbers(3, 3, 4, 8))
    ),
    "kernel gradient": Case(
        "conv_general_dilated", kernel_gradient, (numbers(2, 6, 6, 8), numbers(2, 6, 6, 4))
    ),
    "depthwise kernel gradient": Case(
        "conv_general_dilated",
        depthwise_kernel_gradient,
        (numbers(2, 6, 6, 8), numbers(2, 6, 6, 16)),
    ),
    "embedding": Case("gather", take, (T, IDS), piece={(0, 0): looked_up(take, 0)}),
    "take along": Case(
        "gather",
        take_along,
        (numbers(4, 16), indices(16, 4, 6, 1)),
        piece={(0, 1): looked_up(take_along, 1)},
    ),
    "embedding gradient": Case(
        "scatter-add",
        add_at,
        (T, IDS, UPDATES),
        piece={
            (0, 0): looked_up(add_at, 0),
            (1, 0): added_once(add_at),
            (1, 1): added_once(add_at),
        },
    ),
    "take along gradient": Case(
        "scatter-add",
        add_along,
        (numbers(4, 16), indices(16, 4, 6, 1), numbers(4, 6)),
        piece={(0, 1): looked_up(add_along, 1), (1, 1): added_once(add_along)},
    ),
    "scatter": Case(
        "scatter",
        set_at,
        (T, jnp.arange(6, dtype=jnp.int32).reshape(2, 3, 1), numbers(2, 3, 8)),
        piece={(0, 0): looked_up(set_at, 0)},
    ),
    "bitcast": Case(
        "bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, jnp.uint16), (X,)
    ),
    "wrap key": Case(
        "random_bits",
        jax.vmap(lambda k: jax.random.bits(k, (4,))),
        (jax.random.split(jax.random.key(0), 4),),
    ),
}

PAIRS = [(name, factor) for name, case in CASES.items() for factor in case.splittable]


@pytest.mark.parametrize(("name", "factor"), PAIRS)
def test_shards(name, factor):
    check_shards(CASES[name], factor)
