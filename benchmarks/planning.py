"""How long planning takes, from function to plan, and how good the plan is known to be.

Every model is planned in a process of its own, twice: `cold` is the first plan there, `planning`
the second. Tracing, every mesh, the expert strategies and the search are included, imports are
not. `floor` is the best expert strategy that fits, by the same cost model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.apart import apart, result
from benchmarks.workload import Workload, outcome


def _unrolled(layers: int) -> Workload:
    return Workload("gpt-125m", 64, "v5p:2x2x4", {"scan": False, "layers": layers})


CASES = (
    Workload("mlp-8k", 8192, "v5e:2x4"),
    Workload("gpt-125m", 32, "v5e:2x4"),
    Workload("vit-l", 128, "v5e:2x4"),
    Workload("t5-large", 32, "v5e:4x4"),
    Workload("wrn-28-10", 256, "v5e:2x4"),
    Workload("unet-base", 64, "v5e:2x4"),
    Workload("moe-8x7b", 64, "v5p:4x4x4"),
    Workload("gpt-1.3b", 32, "v5e:2x4"),
    Workload("gpt-1.3b", 64, "v5e:4x4"),
    Workload("llama-8b", 64, "v5p:4x4x4"),
    Workload("llama-405b", 512, "v5p:8x16x16"),
    *map(_unrolled, (8, 16, 32, 48, 64, 128)),
)


def measure(case: Workload) -> dict[str, Any]:
    """Plan one model on one machine, in this process."""
    from autoshard import plan

    entry = case.entry()
    times_s = []
    for _ in range(2):
        step, args = entry.build(case.batch_size)
        begun = time.perf_counter()
        p = plan(step, *args, on=case.on, donate_argnums=entry.donate_argnums)
        times_s.append(time.perf_counter() - begun)
    return {
        **asdict(case),
        "cold_s": times_s[0],
        "planning_s": times_s[1],
        **outcome(p),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planning", description=__doc__)
    parser.add_argument("--only", metavar="MODEL", help="one model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", metavar="CASE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.one:
        print(json.dumps(measure(Workload(**json.loads(args.one)))))
        return 0
    chosen = [case for case in CASES if args.only in (None, case.model)]
    if not args.json:
        print(
            f"{'model':<34} {'on':<12} {'cold':>7} {'planning':>9} {'peak RSS':>9}"
            f" {'step':>10} {'gap':>6}  best expert"
        )
    rows = []
    for case in chosen:
        rows.append(apart("planning", "one", asdict(case), f"{case.called} on {case.on}"))
        if not args.json:
            print(_line(case, rows[-1]), flush=True)
    if args.json:
        print(result("planning --json", rows))
    return 0


def _line(case: Workload, r: dict[str, Any]) -> str:
    expert = f"{r['floor']} {r['floor_step_s'] * 1e3:.1f} ms" if r["floor"] else "none fits"
    return (
        f"{case.called:<34} {case.on:<12} {r['cold_s']:5.1f} s {r['planning_s']:7.1f} s"
        f" {r['peak_rss_bytes'] / 1e9:6.2f} GB {r['predicted_step_s'] * 1e3:7.1f} ms"
        f" {r['gap']:6.2%}  {expert}"
    )


if __name__ == "__main__":
    sys.exit(main())
