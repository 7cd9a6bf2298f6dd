"""Train steps on other people's models: one of each of three libraries, against plain `jax.jit`."""

import pytest

from benchmarks.wild.cases import CASES
from benchmarks.wild.contest import TOLERANCE, contest, reference


@pytest.mark.parametrize(
    ("name", "module"),
    [("haiku_mlp", "haiku"), ("equinox_gru", "equinox"), ("linen_lstm", "flax")],
)
def test_a_step_written_elsewhere_trains_the_same(name, module, devices):
    pytest.importorskip(module)
    built = CASES[name].build()
    # Left to itself the search keeps programs this small whole.
    row = contest(name, module, built, "4x2 slow chip", reference(built))
    assert row.status == "ok", row.detail
    assert row.replicated == ()
    assert row.split_values > 0, "no work was split: the numbers prove nothing"


def test_a_difference_would_be_seen():
    import numpy as np

    from benchmarks.wild.contest import worst

    right = {"w": np.array([1.0, -4.0]), "n": np.array([1, 2])}
    slightly = {"w": np.array([1.0, -4.004]), "n": np.array([1, 2])}
    other = {"w": np.array([1.0, -4.0]), "n": np.array([1, 3])}
    assert worst(right, right)[0] == 0
    error, where = worst(slightly, right)
    assert error > TOLERANCE
    assert where == "['w']"
    assert worst(other, right)[0] == float("inf")
