"""One sharding rule per JAX primitive. Importing the room fills its registry."""

from autoshard.rules import (
    contraction,
    convolution,
    elementwise,
    indexing,
    kernels,
    layout,
    manual,
    packages,
    pieces,
    random,
    reductions,
)

__all__ = [
    "contraction",
    "convolution",
    "elementwise",
    "indexing",
    "kernels",
    "layout",
    "manual",
    "packages",
    "pieces",
    "random",
    "reductions",
]
