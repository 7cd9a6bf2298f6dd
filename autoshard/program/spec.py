"""Specs: which mesh axes split which dimension of one tensor.

A `Spec` says what `jax.sharding.PartitionSpec` says, without JAX: one tuple of axis names per
dimension, major axis first. It is a value: hashable, comparable, and readable in a plan file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """The layout of one tensor over a mesh.

    Attributes:
        dims: per dimension, the names of the axes that split it, major first; `()` means whole.
    """

    dims: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        used = self.axes
        if len(set(used)) != len(used):
            raise ValueError(f"spec {self} uses a mesh axis on more than one dimension")

    @classmethod
    def replicated(cls, rank: int) -> Spec:
        """The spec of a rank-`rank` tensor that no axis splits."""
        return cls(((),) * rank)

    @classmethod
    def of(cls, *dims: str | Iterable[str] | None) -> Spec:
        """Build a spec the way a `PartitionSpec` is written: `Spec.of("data", None)`."""
        return cls(
            tuple(() if d is None else (d,) if isinstance(d, str) else tuple(d) for d in dims)
        )

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis used, in order of dimension."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def is_replicated(self) -> bool:
        return not any(self.dims)

    def shards(self, sizes: Mapping[str, int]) -> int:
        """Into how many different pieces the tensor is cut on a mesh with these axis sizes."""
        return math.prod(sizes[axis] for axis in self.axes)

    def local_shape(self, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of one device's piece; an uneven dimension is rounded up, as XLA pads it."""
        return tuple(
            -(-size // math.prod(sizes[axis] for axis in dim))
            for size, dim in zip(shape, self.dims, strict=True)
        )

    def __str__(self) -> str:
        def one(dim: tuple[str, ...]) -> str:
            if not dim:
                return "None"
            return repr(dim[0]) if len(dim) == 1 else "(" + ", ".join(map(repr, dim)) + ")"

        return f"P({', '.join(one(dim) for dim in self.dims)})"
