"""Primitives without a rule that are lowered by JAX code are that code, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import mlir

from autoshard import autoshard, plan
from autoshard.errors import UnknownPrimitiveError

MESH = {"data": 4, "tensor": 2}
ARGS = (jnp.arange(64.0 * 128).reshape(64, 128) / 8192, jnp.ones((128, 256)) / 128)


def primitive(name, fun, *, platform=None, result=lambda x, **_: x):
    made = Primitive(name)
    made.def_abstract_eval(result)
    made.def_impl(fun)
    lowering = mlir.lower_fun(fun, multiple_results=False)
    mlir.register_lowering(made, lowering)
    if platform is not None:
        mlir.register_lowering(made, lowering, platform=platform)
    return made


def step_of(made, **params):
    def step(x, w):
        return made.bind(x @ w, **params).sum(0)

    return step


def agrees(step):
    sharded = autoshard(step, mesh=MESH, strict=True, strategy="fsdp_tensor")
    np.testing.assert_allclose(sharded(*ARGS), jax.jit(step)(*ARGS), rtol=1e-5)
    assert any(leaf.spec.dims for leaf in sharded.plan.inputs)


def test_jax_code_is_looked_into():
    agrees(step_of(primitive("scaled", lambda x, *, by: jnp.cumsum(x * by, 0)), by=3.0))


def test_so_it_is_in_bodies_and_in_other_such_code():
    inner = primitive("inner", lambda x: x * 2)
    outer = primitive("outer", lambda x: jax.lax.cond(x[0, 0] > 0, inner.bind, jnp.sin, x))

    def step(x, w):
        def body(carry, _):
            return jax.checkpoint(outer.bind)(carry), None

        return jax.lax.scan(body, x @ w, None, length=3)[0].sum(0)

    agrees(step)


def test_a_result_of_a_python_number_is_as_strong_as_the_primitive_says():
    made = primitive("steps", lambda x: 7.0, result=lambda x: jax.core.ShapedArray((), "float32"))

    def step(x, w):
        return jax.lax.fori_loop(0, 3, lambda i, t: t + made.bind(x), jnp.float32(0)) + x @ w

    agrees(step)


def untraceable(x):
    raise RuntimeError("only the compiler may call this")


def told(x):
    io_callback(lambda _: None, None, x)
    return x


@pytest.mark.parametrize(
    "made",
    [
        primitive("per_platform", lambda x: x * 2, platform="tpu"),
        primitive("untraceable", untraceable),
        primitive("effectful", told),
        primitive("other_shape", lambda x: x[:1]),
    ],
    ids=lambda made: made.name,
)
def test_what_is_not_just_its_code_is_kept_whole(made):
    step = step_of(made)
    notes = plan(step, *ARGS, on="cpu:8", mesh=MESH).notes
    assert any(made.name in note and "kept whole" in note for note in notes)
    with pytest.raises(UnknownPrimitiveError, match=rf"{made.name} at .*test_unfold\.py:\d+"):
        plan(step, *ARGS, on="cpu:8", mesh=MESH, strict=True)


# A function as a package would have it, which JAX keeps between calls without who called.
LIBRARY = """
import jax, numpy as np

@jax.jit
def logged(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
"""


def test_what_a_package_does_is_told_with_the_users_line():
    package = {}
    exec(compile(LIBRARY, "/somewhere/site-packages/package.py", "exec"), package)

    def step(x, w):
        return package["logged"](x @ w).sum(0)

    with pytest.raises(UnknownPrimitiveError, match=r"pure_callback at .*test_unfold\.py:\d+"):
        plan(step, *ARGS, on="cpu:8", strict=True)
