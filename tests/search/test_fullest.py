"""Times between others are left out; the peak of every answer stays."""

import numpy as np
import pytest

from autoshard.search.fullest import alive, fullest


def test_counts_of_what_is_alive():
    start, end, kind = (np.array(x) for x in ([0, 1, 1], [2, 1, 3], [0, 1, 0]))
    found = alive(start, end, kind, 4, 2)
    assert found.tolist() == [[1, 0], [2, 1], [2, 0], [1, 0]]


def test_only_the_ends_of_a_steady_change_matter():
    # Layer by layer: activations go, gradients come, parameters stay.
    layers = np.arange(20)
    counts = np.stack([20 - layers, 1 + layers, np.full(20, 7)], axis=1).astype(np.int32)
    assert fullest(counts).tolist() == [0, 19]
    counts[11, 1] += 1  # one layer keeps more than its neighbours
    assert fullest(counts).tolist() == [0, 11, 19]


def test_of_growing_times_the_last_matters():
    counts = np.stack([1 + np.arange(9), np.full(9, 2)], axis=1).astype(np.int32)
    assert fullest(counts).tolist() == [8]
    assert fullest(counts[::-1].copy()).tolist() == [0]


@pytest.mark.parametrize("seed", range(20))
def test_no_peak_is_lost(seed):
    rng = np.random.default_rng(seed)
    things = int(rng.integers(1, 60))
    start = rng.integers(0, 30, things)
    end = np.minimum(start + rng.integers(0, 12, things), 29)
    counts = alive(start, end, rng.integers(0, 3, things), 30, 3)
    kept = fullest(counts)
    for _ in range(50):
        used = counts @ rng.integers(0, 100, 3)
        assert used[kept].max() == used.max()
