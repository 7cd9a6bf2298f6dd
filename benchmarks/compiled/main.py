"""Predicted beside compiled: peak memory and bytes sent, for models x layouts x machines.

Every pair is planned anew, so predictions are today's; what compilers said is taken from `--from`
where it has the very same plan, then from the cache, and only then asked for again. Compiling
needs the extras `tpu` and `gpu-aot`, and no accelerator.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.compiled.pair import Pair

_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
# Collectives of less than this part of all bytes sent are not worth a line.
_TRIFLE = 1e-3


_ROOT = Path(__file__).resolve().parent.parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; 0 always, a benchmark judges nothing."""
    parser = argparse.ArgumentParser("python -m benchmarks compiled", description=__doc__)
    parser.add_argument("--on", action="append", metavar="MACHINE", help="only this machine")
    parser.add_argument("--model", action="append", metavar="NAME", help="only this model")
    parser.add_argument("--strategy", action="append", metavar="NAME", help="only this layout")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help="compiled before")
    parser.add_argument("--only-from", action="store_true", help="compile nothing anew")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep what was compiled")
    parser.add_argument("--pipelined", action="store_true", help="the table of layers in stages")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from benchmarks.compiled import records
    from benchmarks.compiled.cases import cases
    from benchmarks.compiled.pair import pair
    from benchmarks.compiled.pipelined import pipelined

    chosen = [
        case
        for case in (pipelined() if args.pipelined else cases())
        if case.on in (args.on or [case.on])
        and case.model in (args.model or [case.model])
        and case.strategy in (args.strategy or [case.strategy])
    ]
    known = records.read(args.file) if args.file else {}
    if not args.json:
        print(_HEAD)
    pairs: list[Pair] = []
    for case in chosen:
        try:
            found = pair(case, known, not args.only_from)
        except Exception as error:  # a compiler may fail on one program; the others still count
            print(f"{case.name}: {_first_line(error)}", file=sys.stderr, flush=True)
            continue
        pairs.append(found)
        if not args.json:
            print(_line(found), flush=True)
    if args.write:
        made = [records.record(p.case, p.key, p.found.witness) for p in pairs if p.found]
        records.write(args.write, _command(argv), _versions(), made)
    print(json.dumps(_as_json(pairs, argv), indent=1) if args.json else _below(pairs))
    return 0


_HEAD = (
    f"{'model':<22} {'batch':>6} {'layout':<14} {'on':<10} {'mesh':<18}"
    f" {'peak: predicted':>15} {'compiled':>9} {'error':>7}"
    f" {'sent: predicted':>15} {'compiled':>9} {'error':>7} {'unplanned':>9}"
)


def _line(found: Pair) -> str:
    from benchmarks.compiled.summary import sent, sent_error

    case = found.case
    mesh = ",".join(f"{k}={v}" for k, v in found.plan.mesh.sizes.items() if v > 1)
    start = f"{case.called:<22} {case.batch_size:>6} {case.strategy:<14} {case.on:<10} {mesh:<18}"
    c = found.found
    if c is None:
        return f"{start} {_gb(found.plan.prediction.peak_bytes):>15}  plan not compiled yet"
    predicted, compiled = sent(c)
    return (
        f"{start} {_gb(c.plan.prediction.peak_bytes):>15} {_gb(c.witness.peak_bytes):>9}"
        f" {c.peak_error:>+7.1%} {_gb(predicted):>15} {_gb(compiled):>9} {sent_error(c):>+7.1%}"
        f" {c.unplanned_bytes / compiled if compiled else 0.0:>9.1%}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.3f} GB"


def _platforms(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for p in pairs:
        if p.found is not None:
            found.setdefault(p.found.witness.platform, []).append(p.found)
    return found


def _below(pairs: Sequence[Pair]) -> str:
    """The summary, and every collective that nobody planned."""
    from benchmarks.compiled.summary import NEAR, sent, summary

    lines = [""]
    for platform, found in _platforms(pairs).items():
        s = summary(found)
        lines.append(
            f"{platform}: {s.pairs} pairs; peak memory: median |error| {s.memory_median:.1%},"
            f" from {s.memory_under:+.1%} to {s.memory_over:+.1%};"
            f" bytes sent within {NEAR:.0%} on {s.sent_near:.0%} of the pairs"
        )
    lines += ["", "unplanned collectives, of more than a thousandth of the bytes sent:"]
    for p in pairs:
        if p.found is None:
            continue
        whole = sent(p.found)[1]
        told = [u for u in p.found.unplanned if u.seen.total_bytes > _TRIFLE * whole]
        if told:
            lines.append(p.case.name)
        lines += [
            f"    {u.seen.kind} over {'+'.join(u.seen.axes)} x{u.seen.count}"
            f" {u.seen.total_bytes / 1e6:.1f} MB {u.seen.tensor} at"
            f" {os.path.basename(u.seen.source) or 'XLA'}"
            f": {u.why}"
            for u in told
        ]
    return "\n".join(lines)


def _as_json(pairs: Sequence[Pair], argv: Sequence[str] | None) -> dict[str, Any]:
    from autoshard.report.comparison import as_json
    from benchmarks.compiled.summary import summary

    return {
        "command": _command(argv),
        "compilers": _versions(),
        "summary": {name: asdict(summary(found)) for name, found in _platforms(pairs).items()},
        "pairs": [
            {
                "model": p.case.model,
                "changes": dict(p.case.changes),
                "batch_size": p.case.batch_size,
                "on": p.case.on,
                "plan": p.key,
                **(_anywhere(as_json(p.found)) if p.found else {"mesh": p.plan.mesh.sizes}),
                **(_stages(p) if p.plan.pipeline else {}),
            }
            for p in pairs
        ],
    }


def _stages(p: Pair) -> dict[str, Any]:
    from benchmarks.compiled.stages import over_pipe

    told = {"asked": dict(p.case.asked), "microbatches": p.plan.pipeline.microbatches}
    return told | ({"over_pipe": over_pipe(p.found)} if p.found else {})


def _anywhere(found: Any) -> Any:
    """The same with the repository's own lines named from its root, whatever machine this is."""
    if isinstance(found, dict):
        return {key: _anywhere(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_anywhere(value) for value in found]
    return found.replace(f"{_ROOT}{os.sep}", "") if isinstance(found, str) else found


def _command(argv: Sequence[str] | None) -> str:
    return " ".join(["python -m benchmarks compiled", *(sys.argv[2:] if argv is None else argv)])


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _COMPILERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:160]}"
