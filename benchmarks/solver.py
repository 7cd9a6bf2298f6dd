"""The solver that plans use, on an instance of the public contest's format.

    python -m benchmarks solver INSTANCE.json[.gz] --seconds N --out SOLUTION.json

prints cost, lower bound and gap as JSON; progress goes to stderr. The time is wall clock for
everything, reading included. When it is over, or on Ctrl-C, the best answer so far is written.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np

# Kept for what comes after the search: lifting the answer back, checking and writing it.
_MARGIN_S, _MARGIN = 0.7, 0.01
# Bounds are sums of many rounded terms; below this an integer is not taken for met.
_ROUNDING = 0.05


def solve_file(path: str, seconds: float, out: str | None, seed: int) -> dict[str, Any]:
    """Solve one instance within a time; see the module's docstring."""
    begun = time.monotonic()
    end = begun + max(seconds * (1 - _MARGIN) - _MARGIN_S, 0.5 * seconds)
    # What stops the search where nobody looks at the clock.
    signal.signal(signal.SIGALRM, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, end - begun)

    from autoshard.search.solve import solve
    from benchmarks.iopddl import read, write

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    def on_better(cost: float, bound: float) -> None:
        tell(f"cost {cost:.12g}, bound {bound:.12g}")

    problem = read(path)
    tell(f"{len(problem.variables)} nodes, {len(problem.pairs)} edges, {problem.horizon} times")
    solution = solve(
        problem,
        time_limit_s=end - time.monotonic() - 0.2,
        tolerance=1e-11,
        seed=seed,
        thorough=True,
        on_better=on_better,
    )
    signal.setitimer(signal.ITIMER_REAL, 0)
    cost, bound = solution.cost_s, solution.bound_s
    if _whole(problem) and math.isfinite(bound):
        bound = float(min(math.ceil(bound - _ROUNDING), cost))
    if solution.choice is not None:
        assert problem.cost_s(solution.choice) == cost
        assert problem.peak_bytes(solution.choice) <= problem.limit_bytes
        if out is not None:
            write(out, solution.choice)
    return {
        "instance": path,
        "cost": _number(cost),
        "lower_bound": _number(bound),
        "gap": (cost - bound) / cost if math.isfinite(cost) and cost else None,
        "optimal": cost == bound,
        "seconds": time.monotonic() - begun,
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _whole(problem: Any) -> bool:
    """Whether every cost is an integer, so that a bound may be rounded up."""
    terms = [t.cost_s for t in (*problem.variables, *problem.pairs)]
    different = {id(t): t for t in terms}.values()
    return all(bool((t[np.isfinite(t)] % 1 == 0).all()) for t in different)


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Solve and print; 1 when no answer was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks solver", description=__doc__)
    parser.add_argument("instance", help="JSON, gzipped or not")
    parser.add_argument("--seconds", type=float, default=60.0, help="wall clock for everything")
    parser.add_argument("--out", metavar="SOLUTION.json", help="a list of strategies, one a node")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    result = solve_file(args.instance, args.seconds, args.out, args.seed)
    print(json.dumps(result))
    return 0 if result["cost"] is not None else 1
