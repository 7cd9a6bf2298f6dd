"""How long it takes to cost one plan: predicted step time and peak memory of one layout.

A program is traced and analysed once and priced once per mesh (`tables`); after that any of its
layouts is a lookup, which is what `one plan` times: the median over random layouts, objective and
peak memory together. The search costs thousands of layouts a second this way.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

from benchmarks.apart import result
from benchmarks.workload import Workload

# model, changes to its config, machine, mesh, batch size
CASES: tuple[tuple[str, dict[str, Any], str, dict[str, int], int], ...] = (
    ("llama-70b", {}, "v5p:4x4x4", {"data": 16, "tensor": 4}, 64),
    ("gpt-1.3b", {"layers": 48, "scan": False}, "v5e:4x4", {"data": 4, "tensor": 4}, 16),
)


def measure(
    name: str,
    changes: dict[str, Any],
    on: str,
    sizes: dict[str, int],
    batch_size: int,
    layouts: int = 100,
) -> dict[str, Any]:
    """Time the costing of random layouts of one model on one mesh."""
    import numpy as np

    from autoshard.machine import mesh_from_sizes, parse_machine
    from autoshard.search.arrays import arrays
    from autoshard.search.build import Analysis, build_problem
    from autoshard.trace.function import trace
    from autoshard.trace.signature import signature

    step, args = Workload(name, batch_size, on, changes).entry().build(batch_size)
    begun = time.perf_counter()
    program = trace(step, signature(args, ["state", "batch"]), name=name, donated=frozenset({0}))
    analysis = Analysis(program.program)
    _ = analysis.graph, analysis.live_on(parse_machine(on).chip.platform), analysis.kinds
    analysed = time.perf_counter()
    machine = parse_machine(on)
    mesh = mesh_from_sizes(machine, sizes)
    problem = build_problem(analysis, machine, mesh, machine.default_memory_limit_bytes).problem
    flat = arrays(problem)
    priced = time.perf_counter()
    rng = np.random.default_rng(0)
    each = []
    for _ in range(layouts):
        choice = np.array([rng.integers(len(v.cost_s)) for v in problem.variables])
        start = time.perf_counter()
        flat.cost_s(choice)
        flat.used_bytes(choice).max()
        each.append(time.perf_counter() - start)
    return {
        "model": name,
        "changes": changes,
        "on": on,
        "mesh": sizes,
        "ops": len(program.program.ops),
        "decisions": len(problem.variables),
        "analysis_s": analysed - begun,
        "tables_s": priced - analysed,
        "one_plan_s": statistics.median(each),
        "layouts": layouts,
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks costing", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = [measure(*case) for case in CASES]
    if args.json:
        print(result("costing --json", rows))
        return 0
    print("model      ops     decisions  trace, analysis  tables    one plan")
    for r in rows:
        print(
            f"{r['model']:<10} {r['ops']:<7} {r['decisions']:<9}  {r['analysis_s']:13.2f} s"
            f"  {r['tables_s']:6.2f} s  {r['one_plan_s'] * 1e3:6.2f} ms"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
