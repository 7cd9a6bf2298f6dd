"""Which functions of a batch are sums over microbatches: equal where taken, refused where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from autoshard import _compat
from autoshard.errors import MicrobatchError
from autoshard.trace.function import Traced, trace
from autoshard.trace.microbatch import in_microbatches
from autoshard.trace.signature import signature
from autoshard.trace.variants import Variant, Variants

BATCH, SEQ, WIDTH = 8, 3, 4
W = jnp.linspace(-1, 1, WIDTH * WIDTH).reshape(WIDTH, WIDTH)
X = jnp.sin(jnp.arange(BATCH * SEQ * WIDTH, dtype=jnp.float32)).reshape(BATCH, SEQ, WIDTH)
Y = jnp.arange(BATCH) % WIDTH
Fn = Callable[..., Any]


def traced_of(fn: Fn, *args: Any) -> Traced:
    return trace(fn, signature(args, [f"arg{i}" for i in range(len(args))]), name="step")


def same(fn: Fn, *args: Any, pieces: int = 2, tolerance: float = 1e-5) -> Traced:
    """Asserts that microbatches give what the whole batch gives; returns what runs."""
    traced = traced_of(fn, *args)
    split = in_microbatches(traced, pieces)
    leaves = jax.tree_util.tree_leaves(args)
    with jax.disable_jit(False):
        before = jaxpr_as_fun(traced.closed)(*leaves)
        after = jaxpr_as_fun(split.closed)(*leaves)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=1e-6
        )
    loops = [e for e in split.closed.jaxpr.eqns if e.primitive.name == "scan"]
    assert any(e.params["length"] == pieces for e in loops)
    return split


def layers(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.stack([w, w.T]))[0]


def losses(w: jax.Array, x: jax.Array) -> jax.Array:
    """Per example."""
    return (layers(w, x) ** 2).mean((1, 2))


TAKEN: dict[str, tuple[Fn, tuple[Any, ...]]] = {
    "gradient of a mean": (
        lambda w, x: jax.value_and_grad(lambda w: losses(w, x).mean())(w),
        (W, X),
    ),
    "results per example": (lambda w, x: losses(w, x), (W, X)),
    "results with the batch in the middle": (lambda w, x: layers(w, x).transpose(1, 0, 2), (W, X)),
    "results with the batch in a merged dimension": (
        lambda w, x: layers(w, x).reshape(-1, WIDTH),
        (W, X),
    ),
    "weights by number of example": (
        lambda w, x: (losses(w, x) * jnp.arange(len(x))).sum(),
        (W, X),
    ),
    "noise drawn outside of loops": (
        lambda w, x: layers(w, x + jax.random.normal(jax.random.key(0), x.shape)).sum(),
        (W, X),
    ),
    "a lookup per example": (
        lambda w, y: jax.value_and_grad(lambda w: jnp.sin(w[y]).sum())(w),
        (W, Y),
    ),
    "labels taken along an axis": (
        lambda w, x, y: jnp.take_along_axis(layers(w, x)[:, 0], y[:, None], axis=1).mean(),
        (W, X, Y),
    ),
    "norms of summed gradients": (
        lambda w, x: jnp.linalg.norm(jax.grad(lambda w: losses(w, x).sum())(w)),
        (W, X),
    ),
    "a sum that stays in a loop's carry": (
        lambda w, x: jax.lax.scan(
            lambda total, w: (total + (x @ w).sum(0), None), jnp.zeros((SEQ, WIDTH)), w[None]
        )[0],
        (W, X),
    ),
    "counts": (lambda x: ((x > 0).sum(), (x > 0).any(-1).mean()), (X,)),
    "both branches": (
        lambda w, x: jax.lax.cond(w[0, 0] > 0, lambda x: x.sum(0), lambda x: 2 * x.sum(0), x),
        (W, X),
    ),
    "a masked mean whose gradient is not asked for": (
        lambda w, x: (losses(w, x) * (x[:, 0, 0] > 0)).sum() / (x[:, 0, 0] > 0).sum(),
        (W, X),
    ),
    "checkpointed layers": (
        lambda w, x: jax.grad(lambda w: jax.checkpoint(losses)(w, x).mean())(w),
        (W, X),
    ),
    "one weight used twice": (
        lambda w, x: jax.grad(lambda w: (jnp.sin(x @ w) @ w.T).sum())(w),
        (W, X),
    ),
}


@pytest.mark.parametrize("pieces", [2, 4])
@pytest.mark.parametrize("name", TAKEN)
def test_sums_are_the_same(name: str, pieces: int) -> None:
    fn, args = TAKEN[name]
    same(fn, *args, pieces=pieces)


def grad_of(loss: Callable[..., Any]) -> Fn:
    return lambda w, *rest: jax.grad(loss)(w, *rest)


def normed(w: jax.Array, x: jax.Array) -> jax.Array:
    y = x @ w
    return (((y - y.mean((0, 1))) / (1 + y.std((0, 1)))) ** 3).sum()


def balanced(w: jax.Array, x: jax.Array) -> jax.Array:
    shares = jax.nn.softmax(x @ w)
    return (shares.mean((0, 1)) * (shares > 0.3).mean((0, 1))).sum()


REFUSED: dict[str, tuple[Fn, tuple[Any, ...], str]] = {
    "batch norm": (grad_of(normed), (W, X), "summed over the batch at .* goes back to single"),
    "load balancing": (grad_of(balanced), (W, X), "goes back to single examples in"),
    "a masked mean": (
        grad_of(lambda w, x: (losses(w, x) * (x[:, 0, 0] > 0)).sum() / (x[:, 0, 0] > 0).sum()),
        (W, X),
        "goes back to single examples",
    ),
    "contrastive": (lambda x: jnp.exp(x[:, 0] @ x[:, 0].T).sum(), (X,), "together with every"),
    "max": (lambda x: x.max(0), (X,), "reduce_max is no sum over the batch"),
    "product": (lambda x: x.prod(0), (X,), "reduce_prod is no sum over the batch"),
    "argmax": (lambda x: x.argmax(0), (X,), "argmax needs to see all of the batch"),
    "sort": (lambda x: jnp.sort(x, 0)[0], (X,), "sort"),
    "cumulative": (lambda x: jnp.sin(jnp.cumsum(x, 0)).sum(), (X,), "cumsum"),
    "reversed": (lambda x: (x * x[::-1]).sum(), (X,), "rev"),
    "neighbours": (lambda x: x[1:] - x[:-1], (X,), "slice needs to see all of the batch"),
    "rolled": (lambda x: (x * jnp.roll(x, 1, 0)).sum(), (X,), "slice works otherwise"),
    "examples by number": (
        lambda x, y: x[jnp.arange(len(x)), 0, y].sum(),
        (X, Y),
        "gather brings every example|whole number",
    ),
    "shuffled": (lambda x, y: x[y].sum(), (X, Y), "gather brings every example|whole number"),
    "written by number": (
        lambda x, y: jnp.zeros((len(x), 2)).at[y, 0].add(x[:, 0, 0]),
        (X, Y),
        "scatter|whole number",
    ),
    "a loop over examples": (
        lambda w, x: jax.lax.map(lambda x: (x @ w).sum(), x).sum(),
        (W, X),
        "a loop runs over the examples|needs to see all of the batch|smaller batch",
    ),
    "masks drawn in a loop": (
        lambda w, x: jax.lax.scan(
            lambda x, key: (x * jax.random.bernoulli(key, 0.5, x.shape), None),
            x,
            jax.random.split(jax.random.key(0), 2),
        )[0].sum(),
        (W, X),
        "random numbers drawn for the batch inside a loop .*test_microbatch.py",
    ),
    "squares of a sum in a loop": (
        lambda w, x: jax.lax.scan(lambda c, w: (c + (x @ w).sum(0) ** 2, None), W[:3], w[None])[0],
        (W, X),
        "not linear, in a loop",
    ),
    "a sum on top of something, in a loop": (
        lambda w, x: jax.lax.scan(lambda c, w: (c + (x @ w).sum(0), None), W[:3], w[None])[0],
        (W, X),
        "not linear, in a loop|takes for one",
    ),
    "split by hand": (
        lambda w, x: jax.lax.scan(
            lambda c, x: (c + losses(w, x).sum(), None), 0.0, x.reshape(2, -1, SEQ, WIDTH)
        )[0],
        (W, X),
        "takes the batch apart",
    ),
    "printed": (
        lambda x: (jax.debug.print("{x}", x=x.sum(1)), x.sum())[1],
        (X,),
        "side effects",
    ),
    "other code for other sizes": (
        lambda x: x.sum() if len(x) == BATCH else (x * 2).sum(),
        (X,),
        "something else for a smaller batch",
    ),
    "an assertion on the size": (
        lambda x: x.reshape(BATCH, -1).sum(),
        (X,),
        "a reshape|tracing it with a batch of 4 fails|smaller batch|reshape makes",
    ),
    "nothing of the batch": (lambda w, x: w * 2, (W, X), "nothing in it depends on the batch"),
    "no batch": (lambda s: s + 1, (jnp.float32(1),), "could be the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_over_microbatches_is_refused(name: str) -> None:
    fn, args, why = REFUSED[name]
    with pytest.raises(MicrobatchError, match=f"(?s)cannot be taken in microbatches: .*({why})"):
        in_microbatches(traced_of(fn, *args), 2)


def test_the_line_of_the_user_is_named() -> None:
    with pytest.raises(MicrobatchError, match=r"test_microbatch\.py:\d+ .*test_microbatch\.py:\d+"):
        in_microbatches(traced_of(grad_of(normed), W, X), 2)


@pytest.mark.parametrize("pieces", [3, 8])
def test_batches_that_do_not_divide_are_refused(pieces: int) -> None:
    with pytest.raises(MicrobatchError, match=f"a batch of 8 does not divide into {pieces}"):
        in_microbatches(traced_of(lambda x: x.sum(), X), pieces)


def test_short_floats_are_accumulated_in_long_ones() -> None:
    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.grad(lambda w: (x.astype(w.dtype) @ w).sum())(w)

    split = same(fn, W.astype(jnp.bfloat16), X, pieces=4, tolerance=1e-2)
    (loop,) = (e for e in split.closed.jaxpr.eqns if e.primitive.name == "scan")
    carried = loop.params["jaxpr"].jaxpr.outvars[: _compat.scan_counts(loop.params)[1]]
    assert {str(v.aval.dtype) for v in carried} == {"float32"}


def test_the_update_is_done_once() -> None:
    """What follows the sums stays outside of the loop, and so does what only state goes into."""

    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        grad = jax.grad(lambda w: losses(w, x).mean())(w)
        return w - 0.1 * grad / jnp.sqrt(1 + grad**2) - 0.01 * jnp.exp(w)

    split = same(fn, W, X)
    (loop,) = (e for e in split.closed.jaxpr.eqns if e.primitive.name == "scan")
    inside = {e.primitive.name for e in loop.params["jaxpr"].jaxpr.eqns}
    outside = {e.primitive.name for e in split.closed.jaxpr.eqns}
    assert {"sqrt", "exp"} <= outside
    assert not {"sqrt", "exp"} & inside


def test_counts_are_powers_of_two_that_divide_the_batch() -> None:
    variants = Variants(traced_of(lambda x: x.sum(), jnp.zeros((24, 2))))
    assert variants.counts() == (2, 4, 8)
    assert str(Variant(4, remat="full")) == "4 microbatches, remat full"
    assert str(Variant()) == "as written"
