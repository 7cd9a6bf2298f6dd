"""`python -m autoshard` is the command line."""

import subprocess
import sys


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoshard", "machines"], capture_output=True, text=True, check=True
    )
    assert "v5e" in done.stdout
