"""Boundaries of stages: as good as any cut, by trying all of them."""

from __future__ import annotations

from itertools import accumulate, combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search.boundaries import boundaries


def judged(work: tuple[float, ...], counts: tuple[int, ...]) -> tuple[float, int]:
    """The work of the slowest stage, and the layers of the longest."""
    ends = [0, *accumulate(counts)]
    return max(sum(work[a:b]) for a, b in pairwise(ends)), max(counts)


def every_cut(n: int, stages: int) -> list[tuple[int, ...]]:
    return [
        tuple(b - a for a, b in pairwise((0, *cuts, n)))
        for cuts in combinations(range(1, n), stages - 1)
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([1.0, 2.0, 5.0, 30.0]), min_size=2, max_size=10), st.data())
def test_no_cut_is_better(work: list[float], data: st.DataObject) -> None:
    stages = data.draw(st.integers(2, len(work)))
    layers = tuple(work)
    found = boundaries(layers, stages)
    assert sum(found) == len(layers)
    assert min(found) >= 1
    best = min(judged(layers, cut) for cut in every_cut(len(layers), stages))
    assert judged(layers, found) == pytest.approx(best)


def test_hundreds_of_layers_are_cut() -> None:
    work = tuple(float(1 + 7 * (n % 5 == 0)) for n in range(300))
    found = boundaries(work, 16)
    assert judged(work, found)[0] <= sum(work) / 16 + max(work)


def test_fewer_layers_than_stages_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 layers do not make 3 stages"):
        boundaries((1.0, 1.0), 3)
