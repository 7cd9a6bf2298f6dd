"""The overhead benchmark runs and reports what it promises; the number itself is not asserted."""

import json
import subprocess
import sys


def test_it_reports_both_sides_and_their_ratio() -> None:
    command = [sys.executable, "-m", "benchmarks", "overhead", "--calls", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert [row["leaves"] for row in result["rows"]] == [66, 600]
    for row in result["rows"]:
        assert row["ratio"] == row["autoshard_s"] / row["jit_s"] > 0
