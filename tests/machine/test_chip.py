"""Rates of JAX dtypes on catalogued chips."""

from __future__ import annotations

import pytest

from autoshard.machine import load_catalog


@pytest.mark.parametrize(
    ("chip", "dtype", "peak"),
    [
        ("v5e", "bfloat16", 197e12),
        ("v5e", "float32", 197e12),  # JAX's default precision: one bfloat16 pass
        ("v5e", "float16", 197e12),
        ("v5e", "float64", 197e12),
        ("v5e", "int8", 394e12),
        ("v5e", "int4", 788e12),
        ("v6e", "int4", 1836e12),  # no int4 entry: converted to int8
        ("v5e", "float8_e4m3fn", 197e12),  # no fp8 unit: converted to bfloat16
        ("v5p", "float8_e5m2", 459e12),
        ("h100", "float32", 494.7e12),  # JAX's default precision: TensorFloat32
        ("h100", "float64", 67e12),
        ("h100", "int32", 67e12),
        ("h100", "float8_e4m3fn", 1979e12),
        ("cpu", "bfloat16", 50e9),
        ("cpu", "bool", 50e9),
    ],
)
def test_flops_per_s(chip: str, dtype: str, peak: float) -> None:
    entry = load_catalog()[chip].chip
    assert entry.flops_per_s(dtype) == pytest.approx(peak * entry.matmul_efficiency)
