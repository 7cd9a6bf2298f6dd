"""Predicted beside measured for training runs that others published.

Every run is built as a JAX train step, traced, cut into stages where it ran as a pipeline, laid out
by the strategy that the row names, and priced by the code that plans use. Ranks and regret are
taken among runs of one group with equal precision, batch and framework. Interleaved pipelines that
are priced as if they were not are listed by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_FITTED = Path(__file__).parent / "fitted.json"


def main(argv: list[str] | None = None) -> int:
    """Predict and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks published", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="published runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--group", help="only groups whose name contains this")
    parser.add_argument("--fit", action="store_true", help=f"fit anew, write {_FITTED.name}")
    parser.add_argument("--rows", action="store_true", help="list every row")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from benchmarks.published.rows import read

    rows = [read(record) for file in args.files for record in json.loads(file.read_text())]
    if args.group:
        rows = [row for row in rows if args.group in row.group]
    if args.fit:
        _fit(rows, [f.name for f in args.files])
    result = evaluate(rows, _fitted(), listed=args.rows)
    result["command"] = f"python -m benchmarks published {' '.join(f.name for f in args.files)}"
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(_table(result)))
    return 0


def _fit(rows: Sequence[Any], files: Sequence[str]) -> None:
    from benchmarks.published.fit import fit

    # Pipelines take no part, so that all of them show what the numbers are worth elsewhere.
    cases = [(row, case) for row, case in _cases(rows)[0] if case.stages is None]
    command = f"python -m benchmarks published {' '.join(files)} --fit"
    found = {"command": command, "families": fit(cases)}
    _FITTED.write_text(json.dumps(found, indent=1) + "\n")


def _cases(rows: Sequence[Any]) -> tuple[list[tuple[Any, Any]], list[dict[str, Any]]]:
    """Rows that can be expressed, runs of one program together so that it is traced once."""
    from benchmarks.published.predict import Unsupported, case_of

    cases, unsupported = [], []
    for row in rows:
        try:
            cases.append((row, case_of(row)))
        except Unsupported as error:
            unsupported.append(_unsupported(row, error))
    return sorted(cases, key=lambda pair: (repr(pair[1]), pair[0].id)), unsupported


def _unsupported(row: Any, error: Exception) -> dict[str, Any]:
    return {"id": row.id, "group": row.group or None, "reason": str(error)}


def _fitted() -> dict[str, dict[str, float]]:
    if not _FITTED.exists():
        return {}
    found: dict[str, dict[str, float]] = json.loads(_FITTED.read_text())["families"]
    return found


def evaluate(
    rows: Sequence[Any], fitted: dict[str, dict[str, float]], *, listed: bool = False
) -> dict[str, Any]:
    """Predict every row and score the groups."""
    from benchmarks.published.fit import is_fitted_on
    from benchmarks.published.predict import Unsupported, efficiency_of, predict
    from benchmarks.published.score import Scored, groups, summary

    cases, unsupported = _cases(rows)
    scored = []
    for n, (row, case) in enumerate(cases):
        if n % 20 == 0:
            print(f"published: {n} of {len(cases)} runs", file=sys.stderr)
        try:
            predicted = predict(row, case, efficiency_of(row, fitted))
            scored.append(Scored(row, predicted, is_fitted_on(row), case.stages))
        except Unsupported as error:
            unsupported.append(_unsupported(row, error))
    alike = [s for s in scored if s.stages is None or s.stages.takes_as_long]
    other = [s for s in scored if s.stages is not None and not s.stages.takes_as_long]
    found = {
        "groups": groups(alike),
        "interleaved": groups(other),
        "unsupported": unsupported,
        "summary": {
            "held_out": summary([s for s in alike if not s.fitted]),
            "fitted_on": summary([s for s in alike if s.fitted]),
            "all": summary(alike),
            "with_pipelines": summary(_with_pipelines(alike)),
            "without_pipelines": summary([s for s in alike if s.stages is None]),
            "interleaved": summary(other),
        },
    }
    if listed:
        found["rows"] = [
            {
                "id": s.row.id,
                "group": s.row.group or None,
                "framework": s.row.framework,
                "predicted_step_s": s.predicted.step_s,
                "measured_step_s": s.row.step_s,
                "predicted_peak_bytes": s.peak_bytes,
                "measured_memory_bytes": s.row.memory_bytes,
            }
            for s in scored
        ]
    return found


def _with_pipelines(scored: Sequence[Any]) -> list[Any]:
    """All runs of the groups in which one is a pipeline."""
    names = {s.row.group for s in scored if s.stages is not None}
    return [s for s in scored if s.row.group in names]


def _table(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'group':<44} {'rows':>4} {'regret':>7} {'rank':>6} {'step':>7} {'memory':>7}"
    for g in (*result["groups"], *result["interleaved"]):
        yield (
            f"{g['group'] or '(none)':<44} {g['rows']:>4} {_number(g['regret'], '7.3f')}"
            f" {_number(g['spearman'], '6.2f')} {_number(g['median_error_step'], '7.1%')}"
            f" {_number(g['median_error_memory'], '7.1%')}"
        )
    yield ""
    for name, one in result["summary"].items():
        yield f"{name}: " + ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in one.items()
        )
    yield ""
    for reason, count in Counter(u["reason"] for u in result["unsupported"]).most_common():
        yield f"unsupported: {count:>4}  {reason}"


def _number(value: float | None, form: str) -> str:
    return f"{'-':>{form.split('.')[0]}}" if value is None else format(value, form)
