"""Orders of the cells of a grid in which consecutive cells are neighbours."""

from __future__ import annotations

import math

Cell = tuple[int, ...]


def has_cycle(shape: tuple[int, ...]) -> bool:
    """Whether a grid without wraparound holds a Hamiltonian cycle.

    It does exactly if at least two dimensions are longer than 1 and the number of cells is even.
    """
    return sum(size > 1 for size in shape) >= 2 and math.prod(shape) % 2 == 0


def walk(shape: tuple[int, ...]) -> tuple[Cell, ...]:
    """Every cell of the grid once, each a neighbour of the one before.

    Where the grid has a Hamiltonian cycle the last cell is also a neighbour of the first.
    """
    if not has_cycle(shape):
        return _snake(shape)
    # The grid is a product of two paths: a snake through all dimensions but one, and that one.
    # One of the two has even length, because the number of cells is even.
    last = max(i for i, size in enumerate(shape) if size > 1)
    rows = _snake(shape[:last])
    lane = tuple((*row, 0) for row in rows)
    if len(rows) % 2 == 0:
        body = tuple((*rows[r], 1 + c) for r, c in _snake((len(rows), shape[last] - 1)))
        cells = body + lane[::-1]
    else:
        # Odd rows, even columns: walk the columns as rows and return along the first row.
        columns = range(shape[last])
        body = tuple((*rows[1 + r], c) for c, r in _snake((shape[last], len(rows) - 1)))
        cells = body + tuple((*rows[0], c) for c in reversed(columns))
    tail = (0,) * (len(shape) - last - 1)
    start = cells.index((0,) * (last + 1))
    return tuple((*cell, *tail) for cell in cells[start:] + cells[:start])


def _snake(shape: tuple[int, ...]) -> tuple[Cell, ...]:
    """Back and forth along the last dimension."""
    if not shape:
        return ((),)
    inner = _snake(shape[1:])
    return tuple(
        (first, *rest)
        for first in range(shape[0])
        for rest in (inner if first % 2 == 0 else inner[::-1])
    )
