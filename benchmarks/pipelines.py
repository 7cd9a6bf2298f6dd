"""What cutting layers into stages is predicted to be worth, and what planning it takes.

Every step is planned twice, each time in a process of its own: never with stages, and as the search
decides (`pipeline="auto"`), with what the backward pass computes again and microbatches of
accumulated gradients left to the search in both. Seconds of planning are CPU seconds, which other
work on the machine lengthens little; those of a step are predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.apart import apart, result
from benchmarks.workload import outcome


@dataclass(frozen=True)
class Case:
    """A model of the zoo on a machine.

    Attributes:
        model: its name.
        batch: examples.
        on: the machine.
    """

    model: str
    batch: int
    on: str


CASES = (
    Case("gpt-6.7b", 256, "8x8xh100"),
    Case("llama-70b", 128, "8x8xh100"),
    Case("gpt-175b", 512, "v5p:8x8x8"),
    Case("gpt-175b", 256, "16x8xh100"),
    Case("gpt-175b", 1536, "128x8xa100-80"),
    Case("llama-405b", 128, "16x8xh100"),
    Case("llama-405b", 512, "64x8xh100"),
)


def measure(case: Case, pipeline: str | bool) -> dict[str, Any]:
    """Plan one step in this process."""
    from autoshard import InfeasibleError, plan
    from autoshard.models.zoo import zoo

    step, args = zoo(case.model, batch_size=case.batch)
    cpu, begun = time.process_time(), time.perf_counter()
    try:
        p = plan(
            step,
            *args,
            on=case.on,
            donate_argnums=0,
            remat="auto",
            microbatch="auto",
            pipeline=pipeline,
        )
    except InfeasibleError as error:
        found: dict[str, Any] = {"least_bytes": error.least_bytes}
    else:
        form = f"{p.microbatches} microbatches" if p.microbatches > 1 else ""
        found = {
            **outcome(p),
            "remat": p.remat,
            "form": str(p.pipeline) if p.pipeline else form,
            "bubble": p.pipeline.bubble if p.pipeline else None,
        }
    cpu_s, planning_s = time.process_time() - cpu, time.perf_counter() - begun
    return {"planning_cpu_s": cpu_s, "planning_s": planning_s, **found}


def _apart(case: Case, pipeline: str | bool) -> dict[str, Any]:
    """The same in a process of its own."""
    called = f"{case.model} on {case.on}"
    found: dict[str, Any] = apart("pipelines", "one", [asdict(case), pipeline], called)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pipelines", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="models and machines with this in the name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", metavar="CASE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.one:
        case, pipeline = json.loads(args.one)
        print(json.dumps(measure(Case(**case), pipeline)))
        return 0
    rows = []
    for case in CASES:
        if args.only in (None, "") or args.only in f"{case.model} {case.on}":
            without, found = _apart(case, False), _apart(case, "auto")
            rows.append({**asdict(case), "without": without, "auto": found})
            if not args.json:
                print(_line(rows[-1]), flush=True)
    if args.json:
        print(result("pipelines --json", rows))
    return 0


def _line(r: dict[str, Any]) -> str:
    said = []
    for name in ("without", "auto"):
        one = r[name]
        took = f"planned in {one['planning_cpu_s']:.0f} s of CPU"
        if "least_bytes" in one:
            said.append(f"{name}: nothing fits below {one['least_bytes'] / 1e9:.0f} GB, {took}")
        else:
            form = one["form"] or "no stages"
            said.append(f"{name}: {one['predicted_step_s']:.2f} s, {form}, {took}")
    return f"{r['model']}, batch {r['batch']}, on {r['on']}: {'; '.join(said)}"
