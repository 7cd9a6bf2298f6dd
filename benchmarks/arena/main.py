"""The automatic plan against every expert that applies and against other automatic answers.

All are judged alike: the memory that the TPU's compiler assigns, and a step time that is estimated
from the program it made (`judge.py` says how; docs/arena.md says it at length). Needs the extra
`tpu` and no accelerator. What was compiled is kept in the user's cache directory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from autoshard.machine import Machine
    from benchmarks.arena.cases import Case
    from benchmarks.arena.compiled import Compiled
    from benchmarks.arena.summary import Bout, Results, Row


def main(argv: Sequence[str] | None = None) -> int:
    """Let them contend and print; 0 always but for an interrupt, a benchmark judges nothing."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from benchmarks.arena import summary
    from benchmarks.arena.cases import CASES

    chosen = [
        case
        for case in CASES
        if case.on in (args.on or [case.on]) and case.label in (args.model or [case.label])
    ]
    bouts: list[Bout] = []
    try:
        for k, case in enumerate(chosen):
            bouts.append(_bout(case, args, f"[{k + 1}/{len(chosen)}] "))
            if not args.json:
                print(summary.table(bouts[-1]), end="\n\n", flush=True)
            _write(args.write, argv, bouts)
    except KeyboardInterrupt:
        print("interrupted; what was compiled is kept", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)  # a compiler may be at work in a thread, and nothing stops it otherwise
    if args.json:
        text = msgspec.json.encode(_results(argv, bouts))
        print(msgspec.json.format(text, indent=1).decode())
    else:
        print(summary.told(summary.summary(bouts)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks arena", description=__doc__)
    parser.add_argument("--model", action="append", metavar="M", help="only this model")
    parser.add_argument("--on", action="append", metavar="MACHINE", help="only this machine")
    parser.add_argument(
        "--who", action="append", metavar="W", help="only auto, W, ...: xla, parallax too"
    )
    parser.add_argument(
        "--budget", action="append", type=float, metavar="PART", help="of memory, for XLA's pass"
    )
    parser.add_argument(
        "--timeout", type=float, default=900.0, metavar="S", help="for one compilation by a peer"
    )
    parser.add_argument("--only-compiled", action="store_true", help="compile nothing anew")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="keep the results as JSON; bouts of other cases that FILE holds stay in it",
    )
    return parser


def _bout(case: Case, args: argparse.Namespace, where: str) -> Bout:
    from autoshard.errors import AutoshardError
    from autoshard.machine import parse_machine
    from benchmarks.arena import own, peer_parallax, peer_xla, summary
    from benchmarks.arena.summary import Bout, Row

    machine = parse_machine(case.on)
    rows: list[Row] = []

    def tell(who: str) -> Callable[[str], None]:
        return lambda what: print(f"{where}{case.name}: {who}: {what}", file=sys.stderr, flush=True)

    for name in own.NAMES:
        if name not in (summary.AUTO, summary.FORMS, *(args.who or own.NAMES)):
            continue
        try:
            found = own.contend(case, name, tell(name), not args.only_compiled)
        except AutoshardError as error:
            rows.append(Row(name, remark=own.first_line(error)))
            continue
        mesh = ", ".join(f"{k} {n}" for k, n in found.plan.mesh.sizes.items() if n > 1)
        if found.plan.remat != "as written":
            mesh += f" remat {found.plan.remat}"
        mesh += f" /{found.plan.microbatches}" * (found.plan.microbatches > 1)
        order = found.plan.mesh.device_order
        rows.append(_row(name, mesh, found.planning_s, found.compiled, machine, order))
    if peer_parallax.NAME in (args.who or [peer_parallax.NAME]):
        for tried in peer_parallax.attempts(machine):
            who = peer_parallax.NAME
            sharded = peer_parallax.contend(
                case, tried, tell(f"{who}, mesh {tried.sizes}"), not args.only_compiled
            )
            rows.append(_row(who, tried.sizes, sharded.seconds, sharded, machine, tried.order))
    if "xla" in (args.who or ["xla"]):
        for attempt in peer_xla.attempts(machine, tuple(args.budget or peer_xla.BUDGETS)):
            who = f"{attempt.name}"
            try:
                made = peer_xla.contend(
                    case,
                    attempt,
                    args.timeout,
                    tell(f"{who}, mesh {attempt.sizes}"),
                    not args.only_compiled,
                )
            except peer_xla.PeerError as error:
                rows.append(Row(who, attempt.sizes, remark=own.first_line(error)))
                break
            rows.append(_row(who, attempt.sizes, made.seconds, made, machine, attempt.order))
    return Bout(case.label, case.on, case.batch_size, tuple(rows))


def _row(
    who: str,
    mesh: str,
    planning_s: float,
    made: Compiled,
    machine: Machine,
    order: tuple[int, ...],
) -> Row:
    from benchmarks.arena.judge import judge
    from benchmarks.arena.links import links_of
    from benchmarks.arena.summary import Row

    if made.error:
        return Row(who, mesh, round(planning_s, 2) or None, remark=made.error)
    verdict = judge(made.text, machine.chip, links_of(machine, order))
    return Row(
        who=who,
        mesh=mesh,
        planning_s=round(planning_s, 2),
        peak_bytes=made.peak_bytes,
        fits=made.peak_bytes <= machine.memory_bytes,
        step_s=_digits(verdict.step_s),
        core_s=_digits(verdict.core_s),
        copies_s=_digits(verdict.copies_s),
        links_s=_digits(verdict.links_s),
        collectives={
            kind: (times, sent, _digits(seconds))
            for kind, (times, sent, seconds) in verdict.collectives.items()
        },
        exposed_s={kind: _digits(seconds) for kind, seconds in verdict.exposed_s.items()},
    )


def _digits(seconds: float) -> float:
    """Microseconds: less is no information, and noise in a committed file."""
    return round(seconds, 6)


def _results(argv: Sequence[str] | None, bouts: Sequence[Bout]) -> Results:
    from benchmarks.arena.peer_xla import PACKAGES
    from benchmarks.arena.summary import Results, summary

    command = ["python -m benchmarks arena", *(sys.argv[2:] if argv is None else argv)]
    own = {name: version(name) for name in ("jax", "jaxlib", "libtpu")}
    return Results(
        commands=(" ".join(command),),
        compilers={"autoshard": own, "XLA AUTO": list(PACKAGES)},
        summary=summary(bouts),
        bouts=tuple(bouts),
    )


def _write(file: Path | None, argv: Sequence[str] | None, bouts: Sequence[Bout]) -> None:
    """After every bout, so that an interrupt costs one."""
    if file is None:
        return
    from benchmarks.arena.summary import Results

    found = _results(argv, bouts)
    if file.exists():
        found = found.beside(msgspec.json.decode(file.read_bytes(), type=Results))
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
