"""`python -m benchmarks wild`: the table of all cases."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence

_FLAG = "--xla_force_host_platform_device_count"
# LLVM's optimiser is left out: most of the time is compilation, and it changes no collective.
_FLAGS = f"{_FLAG}=8 --xla_backend_optimization_level=0"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks wild", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this case")
    parser.add_argument("--layout", action="append", metavar="NAME", help="only this layout")
    parser.add_argument("--list", action="store_true", help="the names, and no run")
    args = parser.parse_args(argv)
    # JAX reads these when it is first imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if _FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

    from benchmarks.wild.cases import CASES
    from benchmarks.wild.contest import LAYOUTS, Row, contest, reference

    for asked, known, what in (
        (args.only, CASES, "case"),
        (args.layout, LAYOUTS, "layout"),
    ):
        for name in asked or ():
            if name not in known:
                parser.error(f"no {what} {name!r}; there are: {', '.join(known)}")
    if args.list:
        for case in CASES.values():
            print(f"{case.name:28} {case.package}")
        return 0

    def show(row: Row) -> None:
        if args.json:
            print(json.dumps(dataclasses.asdict(row)), flush=True)
            return
        error = "" if row.max_relative_error is None else f"{row.max_relative_error:.1e}"
        print(
            f"{row.name:24} {row.package:9} {row.layout:16} {row.status:8} {error:>8}"
            f" {row.plan_s:6.1f} {row.seconds:6.1f} {row.split:>9} {row.split_values:6}"
            f"  {'; '.join(row.replicated)}",
            flush=True,
        )
        if row.status != "ok":
            print("    " + row.detail.strip().replace("\n", "\n    "), flush=True)

    if not args.json:
        print(
            f"{'case':24} {'package':9} {'layout':16} {'status':8} {'error':>8}"
            f" {'plan s':>6} {'all s':>6} {'split':>9} {'inside':>6}  kept whole"
        )
    bad = 0
    for name in args.only or CASES:
        case = CASES[name]
        begun = time.perf_counter()
        try:
            built = case.build()
            expected = reference(built)
        except ImportError as missing:
            print(f"{name}: skipped, {missing}", file=sys.stderr)
            continue
        except Exception:
            # A case that does not run on one device says nothing about autoshard.
            print(f"{name}: broken here\n{traceback.format_exc()}", file=sys.stderr)
            bad += 1
            continue
        if not args.json:
            spent = time.perf_counter() - begun
            print(f"{name:24} {case.package:9} {'one device':16} {spent:>31.1f}", flush=True)
        for layout in args.layout or LAYOUTS:
            row = contest(name, case.package, built, layout, expected)
            show(row)
            bad += row.status in ("wrong", "error")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
