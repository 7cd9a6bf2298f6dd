"""Products of awkward sides pay for whole tiles and whole waves."""

import numpy as np
import pytest

from autoshard.cost.compute import Product, product_utilisation
from autoshard.cost.overlap import Beside, added_s
from autoshard.machine.model import MatrixUnit, Overlap

TPU = MatrixUnit((128, 128, 128))
GPU = MatrixUnit((128, 128, 32), 132)


def product(batch: float, rows: float, columns: float, depth: float) -> Product:
    return Product(*(np.array([float(x)]) for x in (batch, rows, columns, depth)))


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1, 4096, 4096, 4096), 1.0),
        ((8, 1024, 1024, 64), 0.5),  # scores of heads of 64: half of the array is idle
        ((8, 1024, 64, 1024), 0.5),
        ((1, 129, 128, 128), 129 / 256),
        ((1, 1, 1, 1), 1 / 32),  # the vector unit does it
    ],
)
def test_a_systolic_array_pads(sides, expected):
    assert product_utilisation(TPU, product(*sides)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1, 128 * 12, 128 * 11, 4096), 1.0),  # one full wave
        ((1, 128 * 12, 128 * 12, 4096), 144 / 264),  # a second one for 12 tiles
        ((1, 128 * 11, 128, 32 * 16 * 12), 1.0),  # 11 tiles of results, sums in 12 pieces
        ((1, 128 * 11, 128, 32), 11 / 132),  # nothing to cut
    ],
)
def test_tiles_come_in_waves(sides, expected):
    assert product_utilisation(GPU, product(*sides)) == pytest.approx(expected)


def test_no_shape_matters_to_a_plain_unit():
    assert product_utilisation(MatrixUnit(), product(3, 5, 7, 11)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("time_s", "budget_s", "expected"),
    [(1.0, 0.0, 1.0), (1.0, 4.0, 0.1), (3.0, 4.0, 1.2), (0.0, 4.0, 0.0)],
)
def test_what_is_exposed(time_s, budget_s, expected):
    overlap, time = Overlap(share=0.5, slowdown=0.1), np.array(time_s)
    assert added_s(overlap, Beside(budget_s), time, 0 * time) == pytest.approx(expected)


def test_only_what_can_be_cut_in_pieces_hides_behind_its_own_matmul():
    seconds, windowed_s = np.array(3.0), np.array(2.0)
    beside = Beside(budget_s=1.0, windowed=True)
    plain = added_s(Overlap(share=1.0), beside, seconds, windowed_s)
    assert plain == pytest.approx(3.0)
    cut = added_s(Overlap(share=1.0, windowed=1.0), beside, seconds, windowed_s)
    assert cut == pytest.approx(2.0)
