"""`autoshard explain PLAN PART`: everything a plan says about a tensor or a source line."""

from __future__ import annotations

import argparse
import sys

from autoshard.cli.show import show
from autoshard.cli.verb import Verb
from autoshard.plan.serialize import load
from autoshard.report import explain


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("plan", metavar="PLAN", help="file that Plan.save wrote")
    parser.add_argument(
        "part", metavar="PART", help="part of a path, a source file:line, or a reason"
    )


def run(args: argparse.Namespace) -> int:
    """Explain it; status 1 when nothing matches."""
    plan = load(args.plan)
    found = explain.renderable(plan, args.part)
    if found is None:
        print(f"autoshard explain: {explain.nothing(plan, args.part)}", file=sys.stderr)
        return 1
    show(found)
    return 0


VERB = Verb("explain", "Show why tensors lie as they do.", arguments, run)
