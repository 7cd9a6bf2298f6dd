"""`autoshard diff A B`: what changes between two plans; exit status 1 when something does."""

from __future__ import annotations

import argparse

from autoshard.cli.verb import Verb
from autoshard.plan import pretty
from autoshard.plan.serialize import load
from autoshard.plan.wire import to_plain


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("before", metavar="A", help="plan file")
    parser.add_argument("after", metavar="B", help="plan file")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare them."""
    found = load(args.before).diff(load(args.after))
    if args.json:
        print(pretty.dumps({"differ": bool(found), **to_plain(found)}), end="")
    else:
        print(found)
    return 1 if found else 0


VERB = Verb("diff", "Show what changes between two plans.", arguments, run)
