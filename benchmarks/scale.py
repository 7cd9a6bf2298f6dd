"""How planning grows with programs in which nothing repeats (`benchmarks/ragged.py`).

Every size is planned in a process of its own: once from function to plan (`planning`), then stage
by stage. Stages and `planning_cpu` are seconds of CPU, which other work on the machine lengthens
little. `growth` is the exponent that fits a stage's times best: 1 is linear, 2 quadratic. The
largest program is planned once more under cProfile, and the functions that take most are listed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import os
import pstats
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import apart, result
from benchmarks.workload import outcome

ROOT = Path(__file__).resolve().parent.parent
_SHOWN = 25


@dataclass(frozen=True)
class Case:
    """A program of `benchmarks.ragged` on a machine.

    Attributes:
        program: "layered" or "small".
        count: of its layers or ops.
        on: the machine.
    """

    program: str
    count: int
    on: str = "v5e:4x4"

    def build(self) -> tuple[Any, Any]:
        """The step and its arguments."""
        from benchmarks import ragged

        return getattr(ragged, self.program)(self.count)  # type: ignore[no-any-return]


CASES = (
    *(Case("layered", layers) for layers in (20, 40, 80, 160, 320)),
    *(Case("small", ops) for ops in (200, 400, 800, 1600, 3200)),
)


def measure(case: Case) -> dict[str, Any]:
    """Plan one program in this process, and take the stages apart."""
    from autoshard import plan

    step, args = case.build()
    cpu, begun = time.process_time(), time.perf_counter()
    p = plan(step, *args, on=case.on, donate_argnums=0)
    planning_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return {
        **asdict(case),
        **_stages(case),
        "search_s": p.certificate.search_s,
        "planning_s": planning_s,
        "planning_cpu_s": cpu_s,
        **outcome(p),
        "alike": p.certificate.alike,
    }


def _stages(case: Case) -> dict[str, Any]:
    """CPU seconds of what comes before the search, and how large it is."""
    from autoshard.machine import mesh_from_sizes, parse_machine
    from autoshard.search.build import Analysis, build_problem
    from autoshard.trace.function import trace
    from autoshard.trace.signature import signature

    times: dict[str, float] = {}

    def timed(stage: str, do: Callable[[], Any]) -> Any:
        begun = time.process_time()
        found = do()
        times[f"{stage}_s"] = time.process_time() - begun
        return found

    step, args = case.build()
    sig = signature(args, ["state", "x"])
    traced = timed("trace", lambda: trace(step, sig, name="step", donated=frozenset({0})))
    analysis, machine = Analysis(traced.program), parse_machine(case.on)
    mesh = mesh_from_sizes(machine, {"data": 4, "tensor": machine.n_devices // 4})
    limit = machine.default_memory_limit_bytes
    timed("graph", lambda: analysis.graph)
    timed("anatomy", lambda: (analysis.anatomy, analysis.alike))
    timed("lifetimes", lambda: analysis.live_on(machine.chip.platform))
    numbers = timed("layouts", lambda: build_problem(analysis, machine, mesh, limit))
    timed("terms", lambda: numbers.terms)
    timed("prices", lambda: numbers.prices)
    tied = timed("tables", lambda: numbers.tied(analysis.alike))
    return {
        "equations": len(traced.program.ops),
        "decisions": len(tied.problem.variables),
        "pairs": len(tied.problem.pairs),
        **times,
    }


def growth(rows: Sequence[Mapping[str, Any]], stage: str) -> float:
    """The exponent of a stage's time over the number of equations, by least squares of logs."""
    points = [(math.log(r["equations"]), math.log(max(r[stage], 1e-9))) for r in rows]
    x0 = sum(x for x, _ in points) / len(points)
    y0 = sum(y for _, y in points) / len(points)
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def profile(case: Case) -> list[dict[str, Any]]:
    """The functions that take most of a plan by themselves; slower than without a profiler."""
    from autoshard import plan

    step, args = case.build()
    watch = cProfile.Profile()
    watch.runcall(plan, step, *args, on=case.on, donate_argnums=0)
    rows = []
    for (file, line, name), (_, calls, own_s, all_s, _) in pstats.Stats(watch).stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        known = path.is_relative_to(ROOT) and ".venv" not in path.parts
        where = f"{path.relative_to(ROOT)}:{line}" if known else path.name
        rows.append(
            {
                "function": f"{name} ({where})",
                "calls": calls,
                "own_s": own_s,
                "with_called_s": all_s,
            }
        )
    return sorted(rows, key=lambda r: -r["own_s"])[:_SHOWN]


_STAGES = ("trace_s", "graph_s", "anatomy_s", "lifetimes_s", "terms_s", "prices_s", "tables_s")
_WHOLE = ("planning_cpu_s",)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--only", metavar="PROGRAM", help="layered or small")
    parser.add_argument("--most", metavar="N", type=int, help="programs of at most N layers or ops")
    parser.add_argument("--json", action="store_true", help="print JSON, with a profile")
    parser.add_argument("--one", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--profile", metavar="CASE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for task, do in ((args.one, measure), (args.profile, profile)):
        if task:
            print(json.dumps(do(Case(**json.loads(task)))))
            return 0
    chosen = [c for c in CASES if args.only in (None, c.program) and c.count <= (args.most or 1e9)]
    rows = []
    for case in chosen:
        rows.append(apart("scale", "one", asdict(case), str(case)))
        if not args.json:
            print(_line(rows[-1]), flush=True)
    kinds = {case.program: [r for r in rows if r["program"] == case.program] for case in chosen}
    fits = {
        kind: {stage: growth(of_kind, stage) for stage in (*_STAGES, *_WHOLE)}
        for kind, of_kind in kinds.items()
        if len(of_kind) > 1
    }
    if not args.json:
        for kind, fit in fits.items():
            print(f"{kind}: time grows as equations to the power of")
            print(
                "  " + ", ".join(f"{stage.removesuffix('_s')} {e:.2f}" for stage, e in fit.items())
            )
        return 0
    largest = max(rows, key=lambda r: int(r["equations"]))
    case = Case(largest["program"], largest["count"], largest["on"])
    profiled = apart("scale", "profile", asdict(case), str(case))
    print(result("scale --json", rows, growth=fits, profile=profiled))
    return 0


def _line(r: dict[str, Any]) -> str:
    expert = f"{r['floor']} {r['floor_step_s'] * 1e3:.1f} ms" if r["floor"] else "none fits"
    return (
        f"{r['program']:<8} {r['equations']:>6} equations, {r['decisions']:>6} decisions:"
        f" {r['planning_s']:6.1f} s ({r['planning_cpu_s']:.1f} s of CPU),"
        f" {r['peak_rss_bytes'] / 1e9:.2f} GB, step {r['predicted_step_s'] * 1e3:.1f} ms,"
        f" gap {r['gap']:.2%}, {expert}"
    )


if __name__ == "__main__":
    sys.exit(main())
