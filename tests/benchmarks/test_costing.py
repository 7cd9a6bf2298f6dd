"""The costing benchmark on a small model."""

from benchmarks.costing import measure


def test_a_row_says_what_was_timed():
    row = measure("llama-tiny", {}, "v5e:2x4", {"data": 4, "tensor": 2}, 8, layouts=5)
    assert row["layouts"] == 5
    assert row["decisions"] < row["ops"]
    assert 0 < row["one_plan_s"] < row["tables_s"]
