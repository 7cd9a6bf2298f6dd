"""`python -m benchmarks wild`: the table of all cases."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.wild.case import Case
    from benchmarks.wild.contest import Row

_FLAG = "--xla_force_host_platform_device_count"
# LLVM's optimiser is left out: most of the time is compilation, and it changes no collective.
_FLAGS = f"{_FLAG}=8 --xla_backend_optimization_level=0"

_COMMAND = "python -m benchmarks wild --write"

_HEADER = (
    f"{'case':31} {'package':10} {'layout':15} {'status':8} {'error':>8}"
    f" {'plan s':>6} {'all s':>6} {'split':>9} {'inside':>6}  kept whole"
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    # JAX reads these when it is first imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if _FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

    from benchmarks.wild.cases import CASES
    from benchmarks.wild.contest import LAYOUTS

    for asked, known, what in ((args.only, CASES, "case"), (args.layout, LAYOUTS, "layout")):
        for name in asked or ():
            if name not in known:
                parser.error(f"no {what} {name!r}; there are: {', '.join(known)}")
    if args.list:
        for case in CASES.values():
            print(f"{case.name:31} {case.package}")
        return 0

    # The one object of --json is all that standard output holds then.
    out = sys.stderr if args.json else sys.stdout
    # Brax's own dependencies print while they are imported.
    with contextlib.redirect_stdout(out):
        keep = (
            (lambda rows: None) if args.write is None else (lambda rows: _write(args.write, rows))
        )
        names, layouts = args.only or list(CASES), args.layout or list(LAYOUTS)
        if args.missing:
            had = {(row["name"], row["layout"]) for row in _written(args.write)}
            names = [n for n in names if any((n, layout) not in had for layout in layouts)]
        rows, broken = _all(names, layouts, keep)
    if args.json:
        print(json.dumps({"rows": [dataclasses.asdict(row) for row in rows]}))
    return 1 if broken or any(row.status in ("wrong", "error") for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks wild", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object of all rows")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="the same object into a file, case by case, in place of what it has of these cases",
    )
    parser.add_argument("--missing", action="store_true", help="only what that file has not yet")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this case")
    parser.add_argument("--layout", action="append", metavar="NAME", help="only this layout")
    parser.add_argument("--list", action="store_true", help="the names, and no run")
    return parser


def _written(file: Path | None) -> list[dict[str, Any]]:
    """The rows that a file has."""
    if file is None or not file.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def _write(file: Path, rows: Sequence[Row]) -> None:
    """Rows into a file, in place of those of the same cases and layouts."""
    new = [dataclasses.asdict(row) for row in rows]
    again = {(row["name"], row["layout"]) for row in new}
    kept = [row for row in _written(file) if (row["name"], row["layout"]) not in again]
    lines = ",\n".join(json.dumps(row) for row in [*kept, *new])
    command = json.dumps(f"{_COMMAND} {file.name}")
    file.write_text(f'{{"command": {command}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def _all(
    names: Sequence[str], layouts: Sequence[str], keep: Callable[[Sequence[Row]], None]
) -> tuple[list[Row], int]:
    """All rows, and how many cases do not run on one device."""
    from benchmarks.wild.cases import CASES

    print(_HEADER, flush=True)
    rows: list[Row] = []
    broken = 0
    for name in names:
        try:
            found = _rows(CASES[name], layouts)
            keep(found)
            rows += found
        except ImportError as missing:
            print(f"{name}: skipped, {missing}", file=sys.stderr)
        except Exception:
            # A case that does not run on one device says nothing about autoshard.
            print(f"{name}: broken here\n{traceback.format_exc()}", file=sys.stderr)
            broken += 1
    return rows, broken


def _rows(case: Case, layouts: Sequence[str]) -> list[Row]:
    """The case on every layout, shown as it goes; raises what the case itself raises."""
    from benchmarks.wild.contest import contest, reference

    begun = time.perf_counter()
    built = case.build()
    expected = reference(built)
    spent = time.perf_counter() - begun
    print(f"{case.name:31} {case.package:10} {'one device':15} {spent:>31.1f}", flush=True)
    rows = []
    for layout in layouts:
        row = contest(case.name, case.package, built, layout, expected)
        _show(row)
        rows.append(row)
    return rows


def _show(row: Row) -> None:
    error = "" if row.max_relative_error is None else f"{row.max_relative_error:.1e}"
    print(
        f"{row.name:31} {row.package:10} {row.layout:15} {row.status:8} {error:>8}"
        f" {row.plan_s:6.1f} {row.seconds:6.1f} {row.split:>9} {row.split_values:6}"
        f"  {'; '.join(row.replicated)}",
        flush=True,
    )
    if row.status != "ok":
        print("    " + row.detail.strip().replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
