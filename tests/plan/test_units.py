"""Numbers for people round in one place and keep three digits that count."""

import pytest

from autoshard.plan import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (12, "12 B"),
        (1024, "1.00 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (5.1 * 2**30, "5.10 GiB"),
        (14.4 * 2**30, "14.4 GiB"),
        (786 * 2**20, "786 MiB"),
        (3 * 2**50, "3072 TiB"),
    ],
)
def test_size(value, text):
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (4.2, "4.20 s"),
        (0.9999, "1.00 s"),
        (12.3e-3, "12.3 ms"),
        (2e-6, "2.00 us"),
        (3.14e-8, "0.031 us"),
        (120, "120 s"),
    ],
)
def test_time(value, text):
    assert units.time(value) == text


def test_the_rest():
    assert units.amount(6.21e13) == "62.1 T"
    assert units.percent(0) == "0.0 %"
    assert units.percent(1e-5) == "<0.1 %"
    assert units.percent(0.0225) == "2.2 %"
    assert units.ratio(2, 3) == "1.50x"
    assert units.ratio(0, 3) == "-"
