"""Which part of which physical dimension each logical axis takes.

A physical dimension of 16 can carry one axis of 16, or be cut between axes: an inner piece of 4
neighbouring chips and an outer piece of 4 that takes every 4th chip.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one physical dimension, given to one axis.

    Attributes:
        dim: index of the physical dimension.
        size: positions.
        stride: distance of consecutive positions, in chips.
        length: of the whole physical dimension.
    """

    dim: int
    size: int
    stride: int
    length: int


# For each logical axis, the pieces it is made of; pieces of size 1 are left out.
Placement = tuple[tuple[Piece, ...], ...]


def outer_size(pieces: tuple[Piece, ...]) -> int:
    """How much of the first dimension an axis takes: over how many slices or nodes it runs."""
    return math.prod(piece.size for piece in pieces if piece.dim == 0)


def placements(topology: tuple[int, ...], sizes: tuple[int, ...], cuts: int) -> Iterator[Placement]:
    """All ways to build axes of these sizes from pieces of the physical dimensions.

    Args:
        topology: physical dimensions.
        sizes: of the logical axes; their product is the topology's.
        cuts: into how many pieces one dimension may be cut.
    """
    yield from _extend(0, topology, sizes, cuts, tuple(() for _ in sizes))


def _extend(
    dim: int, topology: tuple[int, ...], left: tuple[int, ...], cuts: int, taken: Placement
) -> Iterator[Placement]:
    if dim == len(topology):
        yield taken
        return
    length = topology[dim]
    for parts in _splits(length, tuple(math.gcd(length, size) for size in left)):
        axes = [axis for axis, part in enumerate(parts) if part > 1]
        if len(axes) > cuts:
            continue
        rest = tuple(size // part for size, part in zip(left, parts, strict=True))
        # The first axis of an order is innermost: later axes first, as they talk most.
        for order in itertools.permutations(reversed(axes)):
            grown = list(taken)
            stride = 1
            for axis in order:
                piece = Piece(dim, parts[axis], stride, topology[dim])
                grown[axis] = (*grown[axis], piece)
                stride *= parts[axis]
            yield from _extend(dim + 1, topology, rest, cuts, tuple(grown))


@cache
def _splits(length: int, left: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Factors of `length`, one per axis, each dividing what the axis still needs of it."""
    if not left:
        return ((),) if length == 1 else ()
    # Large parts first: among equals the first axis gets the first dimension, as in row-major.
    return tuple(
        (part, *rest)
        for part in reversed(divisors(math.gcd(length, left[0])))
        for rest in _splits(length // part, left[1:])
    )


@cache
def divisors(n: int) -> tuple[int, ...]:
    """Divisors in ascending order."""
    return tuple(d for d in range(1, n + 1) if n % d == 0)
