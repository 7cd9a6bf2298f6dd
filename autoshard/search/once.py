"""Functions of arrays, computed once for each array.

Layers that are alike use the same bytes at different times: their usages hold one array
(`gather.py`). What is done to it is done once, and its result is one array again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from autoshard.search.problem import Floats, Usage

T = TypeVar("T")


class Once(Generic[T]):
    """A pure function that remembers what it said of an array, told by identity."""

    def __init__(self, of: Callable[[Floats], T]) -> None:
        self._of = of
        self._known: dict[int, tuple[Floats, T]] = {}  # the array is kept: its id is not used anew

    def __call__(self, array: Floats) -> T:
        found = self._known.get(id(array))
        if found is None:
            found = self._known[id(array)] = (array, self._of(array))
        return found[1]


def mapped(usage: Iterable[Usage], of: Callable[[Floats], Floats]) -> list[Usage]:
    """The same times, other bytes."""
    once = Once(of)
    return [Usage(u.start, u.end, once(u.size_bytes)) for u in usage]


def distinct(usage: Iterable[Usage]) -> list[Floats]:
    """The arrays of bytes, each once."""
    return list({id(u.size_bytes): u.size_bytes for u in usage}.values())
