"""Which catalogued peak rate a matmul of a JAX dtype runs at, as a table.

Only rates that vendors publish are catalogued, so most dtypes borrow one: each dtype lists rate
keys in order of preference and the first that the chip has is taken.

* float32 follows JAX's default matmul precision (`jax.lax.Precision.DEFAULT`), which is what an
  unmodified program gets: one bfloat16 pass on TPU, TensorFloat32 on NVIDIA GPUs that have it
  (https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision). Programs that ask for
  "highest" run slower than predicted.
* float64, complex and wide integers take the float32 rate (the bfloat16 rate on TPU, which
  catalogues no float32): optimistic, and rare in matmuls.
* float16 takes the bfloat16 rate where it has none of its own; narrow integers and fp8 fall
  back to the next wider format, into which the compiler converts them.
"""

from __future__ import annotations

from collections.abc import Mapping

RATE_KEYS = frozenset({"bf16", "fp16", "fp8", "int8", "int4", "tf32", "f32", "f64"})

_HALF = ("bf16", "fp16", "f32")
_WIDE = ("f32", "bf16", "fp16")
_BY_DTYPE: dict[str, tuple[str, ...]] = {
    "bfloat16": _HALF,
    "float16": ("fp16", *_HALF),
    "float32": ("tf32", *_WIDE),
    "complex64": ("tf32", *_WIDE),
    "float64": ("f64", *_WIDE),
    "complex128": ("f64", *_WIDE),
    "int8": ("int8", *_WIDE),
    "uint8": ("int8", *_WIDE),
    "int4": ("int4", "int8", *_WIDE),
    "uint4": ("int4", "int8", *_WIDE),
}


def rate_keys(dtype: str) -> tuple[str, ...]:
    """Keys of `Chip.peak_flops_per_s` to try for a JAX dtype name, best first."""
    if dtype.startswith("float8"):
        return ("fp8", *_HALF)
    return _BY_DTYPE.get(dtype, _WIDE)


def peak_for(dtype: str, peak_flops_per_s: Mapping[str, float]) -> float:
    """Dense peak in FLOP/s for matmul operands of a JAX dtype name.

    Raises:
        KeyError: the chip has no rate that the dtype may borrow.
    """
    for key in rate_keys(dtype):
        if key in peak_flops_per_s:
            return peak_flops_per_s[key]
    raise KeyError(
        f"no peak FLOP/s for {dtype}: tried {', '.join(rate_keys(dtype))}, "
        f"the catalogue has {', '.join(sorted(peak_flops_per_s))}"
    )
