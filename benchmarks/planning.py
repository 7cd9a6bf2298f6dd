"""How long planning takes, from function to plan, and how good the plan is known to be.

One process plans one model after the other; tracing, every mesh, the expert strategies and the
search are included. `floor` is the best expert strategy that fits, by the same cost model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

CASES = (
    ("mlp-8k", "v5e:2x4", 8192),
    ("gpt-125m", "v5e:2x4", 32),
    ("gpt-1.3b", "v5e:2x4", 32),
    ("gpt-1.3b", "v5e:4x4", 64),
    ("llama-8b", "v5p:4x4x4", 64),
)


def measure(name: str, on: str, batch_size: int) -> dict[str, Any]:
    """Plan one model on one machine."""
    from autoshard import plan
    from autoshard.models.zoo import zoo

    step, args = zoo(name, batch_size=batch_size)
    begun = time.perf_counter()
    p = plan(step, *args, on=on, donate_argnums=0)
    planning_s = time.perf_counter() - begun
    experts = [r for r in p.certificate.rivals if r.name != "auto" and r.step_s is not None]
    floor = min(experts, key=lambda r: r.step_s or 0.0, default=None)
    return {
        "model": name,
        "on": on,
        "batch_size": batch_size,
        "planning_s": planning_s,
        "mesh": p.mesh.sizes,
        "predicted_step_s": p.prediction.step_s,
        "predicted_peak_bytes": p.prediction.peak_bytes,
        "lower_bound_s": p.certificate.lower_bound_s,
        "gap": p.certificate.gap,
        "floor": floor and floor.name,
        "floor_step_s": floor and floor.step_s,
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planning", description=__doc__)
    parser.add_argument("--only", metavar="MODEL", help="one model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = [measure(*case) for case in CASES if args.only in (None, case[0])]
    import jax

    if args.json:
        result = {
            "command": "python -m benchmarks planning --json",
            "machine": f"{os.cpu_count()} CPU cores",
            "python": platform.python_version(),
            "jax": jax.__version__,
            "rows": rows,
        }
        print(json.dumps(result, indent=2))
        return 0
    print("model      on           planning   predicted step   gap     best expert")
    for r in rows:
        expert = f"{r['floor']} {r['floor_step_s'] * 1e3:.1f} ms" if r["floor"] else "none fits"
        print(
            f"{r['model']:<10} {r['on']:<12} {r['planning_s']:6.1f} s"
            f"  {r['predicted_step_s'] * 1e3:11.1f} ms  {r['gap']:6.2%}  {expert}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
