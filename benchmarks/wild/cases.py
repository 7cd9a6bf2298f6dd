"""The list. Importing it imports no package: builders do."""

from benchmarks.wild import (
    equinox_cases,
    haiku_cases,
    jraph_cases,
    linen_cases,
    nnx_cases,
    optax_cases,
)
from benchmarks.wild.case import CASES

__all__ = [
    "CASES",
    "equinox_cases",
    "haiku_cases",
    "jraph_cases",
    "linen_cases",
    "nnx_cases",
    "optax_cases",
]
