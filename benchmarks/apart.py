"""What benchmarks share that measure each case in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any


def apart(benchmark: str, flag: str, task: Any, called: str) -> Any:
    """Something that a benchmark does, in a process of its own.

    Args:
        benchmark: its name.
        flag: the option by which it is asked, without dashes.
        task: what to do; JSON.
        called: the task, for messages.

    Returns:
        What the process printed as JSON.

    Raises:
        SystemExit: it failed; says its last line.
    """
    command = [sys.executable, "-m", "benchmarks", benchmark, f"--{flag}", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{called}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def result(command: str, rows: Any, **more: Any) -> str:
    """Results as they are committed: with what made them, and where."""
    import jax

    made = {
        "command": f"python -m benchmarks {command}",
        "machine": f"{os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "rows": rows,
        **more,
    }
    return json.dumps(made, indent=2)
