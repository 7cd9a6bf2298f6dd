"""Rules that users bring, and those that come with `custom_partitioning`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir

from autoshard import autoshard, plan, rule
from autoshard.rules.base import OpView, RuleError
from autoshard.rules.notation import notation
from autoshard.rules.registry import _RULES, rule_for


@pytest.fixture
def forgotten() -> Any:
    """Rules that a test registers are gone after it."""
    before = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(before)


def _op(kind: str, *shapes: tuple[int, ...], out: tuple[int, ...]) -> OpView:
    dtypes = ("float32",) * len(shapes)
    return OpView(kind, shapes, dtypes, (out,), ("float32",), {})


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("said", "shapes", "out", "printed"),
    [
        ("mk,kn->mn {k:add}", ((4, 8), (8, 2)), (4, 2), "ij,jk->ik {j:add}"),
        ("bq,bk->bq {k:whole}", ((4, 8), (4, 16)), (4, 8), "ij,ik->ij {k:whole}"),
        ("ab,()->ab", ((4, 8), ()), (4, 8), "ij,()->ij"),
        ("a_->a_", ((4, 8),), (4, 8), "i_->i_"),
        ("ab->ba", ((1, 8),), (8, 1), "_i->i_"),
    ],
)
def test_notation_is_read_as_it_is_printed(
    said: str, shapes: tuple[tuple[int, ...], ...], out: tuple[int, ...], printed: str
) -> None:
    rule("my_kernel", said)
    assert notation(rule_for(_op("my_kernel", *shapes, out=out))) == printed


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("mk,kn", "write operands -> results"),
        ("mk,kn->mn", r"'k' in .* stands on no result"),
        ("mk,kn->mn {k:sum}", "one of whole, parallel, add"),
        ("mk,kn->mn {z:add}", "write a factor of it"),
        ("m k->m", "write a letter for each dimension"),
    ],
)
def test_what_is_no_notation_is_refused(said: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule("my_other_kernel", said)


@pytest.mark.usefixtures("forgotten")
def test_an_equation_of_another_form_is_an_error() -> None:
    rule("my_kernel", "ab,bc->ac {b:add}")
    with pytest.raises(RuleError, match="sizes 8 and 4"):
        rule_for(_op("my_kernel", (4, 8), (4, 2), out=(4, 2)))
    with pytest.raises(RuleError, match="the rule has dimensions"):
        rule_for(_op("my_kernel", (4, 8), out=(4, 2)))


def test_a_rule_for_what_has_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two sharding rules"):
        rule("tanh", "ab->ab")


@pytest.mark.usefixtures("forgotten")
def test_a_primitive_of_ones_own_is_split() -> None:
    double = Primitive("my_double")
    double.def_abstract_eval(lambda x: x)
    double.def_impl(lambda x: 2 * x)
    twice = mlir.lower_fun(lambda x: 2 * x, multiple_results=False)
    mlir.register_lowering(double, lambda ctx, x: twice(ctx, x))  # code that nobody can look into

    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        return double.bind(x @ w).sum(0)

    args = (jnp.ones((64, 128)), jnp.ones((128, 256)))
    assert any("my_double" in note for note in plan(step, *args, on="cpu:8").notes)
    rule("my_double", "ab->ab")
    found = plan(step, *args, on="cpu:8", strict=True)
    assert found.notes == ()
    sharded = autoshard(step, mesh={"data": 4, "tensor": 2})
    np.testing.assert_allclose(sharded(*args), jax.jit(step)(*args), rtol=1e-5)


def test_the_rule_of_custom_partitioning_is_kept() -> None:
    scaled = custom_partitioning(lambda x: 2 * x)
    scaled.def_partition(
        infer_sharding_from_operands=lambda mesh, operands, result: operands[0].sharding,
        partition=lambda mesh, operands, result: (
            mesh,
            lambda x: 2 * x,
            result.sharding,
            (operands[0].sharding,),
        ),
        sharding_rule="i j -> i j",
    )

    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        return scaled(x @ w).sum(0)

    args = (jnp.ones((64, 128)), jnp.ones((128, 256)))
    sharded = autoshard(step, mesh={"data": 4, "tensor": 2}, strict=True)
    np.testing.assert_allclose(sharded(*args), jax.jit(step)(*args), rtol=1e-5)
