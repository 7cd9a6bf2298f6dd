"""`autoshard VERB ...`: one file a verb.

Exit status: 0 fine, 1 a finding (plans differ, nothing fits), 2 the command cannot be understood
or its files cannot be read; then one line on stderr says what to change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from autoshard.cli import calibrate, demo, diff, explain, machines, plan, show, verify
from autoshard.cli.verb import Verb
from autoshard.errors import AutoshardError, InfeasibleError
from autoshard.machine.errors import MachineError

VERBS: tuple[Verb, ...] = (
    plan.VERB,
    show.VERB,
    explain.VERB,
    diff.VERB,
    verify.VERB,
    machines.VERB,
    calibrate.VERB,
    demo.VERB,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and one line; `--help` is there for who asks."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    top = _Parser(prog="autoshard", description="Plan how a JAX program is laid out over devices.")
    verbs = top.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    for verb in VERBS:
        one = verbs.add_parser(verb.name, help=verb.help, description=verb.help)
        verb.arguments(one)
        one.set_defaults(run=verb.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    Args:
        arguments: without the program's name; those of the process if None.
    """
    try:
        parsed = parser().parse_args(arguments)
    except SystemExit as done:  # --help, or a usage error that has been told
        return done.code if isinstance(done.code, int) else 2
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # `autoshard show plan.json | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("autoshard: interrupted", file=sys.stderr)
        return 130
    except (AutoshardError, MachineError) as error:
        print(f"autoshard: {error}", file=sys.stderr)
        return 1 if isinstance(error, InfeasibleError) else 2
    return status


if __name__ == "__main__":
    sys.exit(main())
