"""Small functions, traced, for tests of the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from autoshard.trace.function import Traced, trace
from autoshard.trace.signature import signature


def traced(fn: Callable[..., Any], *args: Any, donated: frozenset[int] = frozenset()) -> Traced:
    names = [f"a{i}" for i in range(len(args))]
    return trace(fn, signature(args, names), name=fn.__name__, donated=donated)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")
