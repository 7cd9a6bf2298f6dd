"""Walks over grids: every cell once, neighbours in a row, closed where the grid allows."""

from __future__ import annotations

import itertools
import math

import pytest

from autoshard.machine.walk import has_cycle, walk

SHAPES = [s for rank in (1, 2, 3) for s in itertools.product(range(1, 6), repeat=rank)]


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_walk(shape: tuple[int, ...]) -> None:
    cells = walk(shape)
    assert cells[0] == (0,) * len(shape)
    assert set(cells) == set(itertools.product(*map(range, shape)))
    assert len(cells) == math.prod(shape)
    assert all(distance(a, b) == 1 for a, b in itertools.pairwise(cells))
    if has_cycle(shape):
        assert distance(cells[-1], cells[0]) == 1


def test_which_grids_hold_a_cycle() -> None:
    assert has_cycle((2, 4))
    assert has_cycle((1, 2, 2))
    assert not has_cycle((3, 3))
    assert not has_cycle((8,))
    assert not has_cycle((1, 8))
