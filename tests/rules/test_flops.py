"""FLOPs of rules against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from autoshard.program.rule import OpClass
from tests.rules.equations import floats, ints, rule_of


def conv(**kwargs):
    options = {"window_strides": (1, 1), "padding": "SAME"} | kwargs
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def kernel_gradient(fn):
    return lambda x, w: jax.grad(lambda w: (fn(x, w) ** 2).sum())(w)


X, W = floats(2, 9, 10, 8), floats(3, 3, 8, 16)
CASES = {
    "matmul": ("dot_general", lambda x, w: x @ w, floats(4, 6), floats(6, 8)),
    "batched": (
        "dot_general",
        lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
        floats(2, 6, 4, 8),
        floats(2, 10, 4, 8),
    ),
    "conv": ("conv_general_dilated", conv(), X, W),
    "valid": ("conv_general_dilated", conv(padding="VALID"), X, W),
    "strided": ("conv_general_dilated", conv(window_strides=(2, 3)), X, W),
    "dilated": ("conv_general_dilated", conv(rhs_dilation=(2, 1)), X, W),
    "transposed": (
        "conv_general_dilated",
        conv(lhs_dilation=(2, 3), padding=((1, 2), (0, 1))),
        X,
        W,
    ),
    "grouped": ("conv_general_dilated", conv(feature_group_count=4), X, floats(3, 3, 2, 16)),
    "batch groups": ("conv_general_dilated", conv(batch_group_count=2), X, W),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_compilers_count(name):
    kind, fn, *args = CASES[name]
    counted = jax.jit(fn).lower(*args).cost_analysis()["flops"]
    rule = rule_of(kind, fn, *args)
    assert rule.flops == counted
    assert rule.op_class is (OpClass.MATMUL if kind == "dot_general" else OpClass.CONV)


@pytest.mark.parametrize("groups", [1, 8])
def test_a_gradient_costs_as_much_as_the_forward_convolution(groups):
    # With all-inside windows nothing is padding: both directions multiply the same pairs.
    forward = conv(padding="VALID", feature_group_count=groups)
    weights = floats(3, 3, 8 // groups, 16)
    once = rule_of("conv_general_dilated", forward, X, weights).flops
    assert rule_of("conv_general_dilated", kernel_gradient(forward), X, weights).flops == once


def test_ragged_dot_multiplies_every_row_once():
    args = floats(16, 8), floats(4, 8, 5), ints(4)
    assert rule_of("ragged_dot_general", lax.ragged_dot, *args).flops == 2 * 16 * 8 * 5
