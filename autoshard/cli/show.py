"""`autoshard show PLAN`: a saved plan in the terminal, as JSON, or as an HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from autoshard.cli.verb import UsageError, Verb
from autoshard.plan.serialize import load, to_json
from autoshard.report import html, text


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("plan", metavar="PLAN", help="file that Plan.save wrote")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the plan as JSON")
    form.add_argument("--html", metavar="FILE", help="write a page to FILE instead")
    parser.add_argument("--all", action="store_true", help="every leaf by itself, not groups")


def run(args: argparse.Namespace) -> int:
    """Show it."""
    plan = load(args.plan)
    if args.json:
        sys.stdout.write(to_json(plan))
    elif args.html:
        try:
            Path(args.html).write_text(html.page(plan, args.all), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{args.html}: cannot write: {error.strerror}") from error
    else:
        show(text.renderable(plan, args.all))
    return 0


def show(content: object) -> None:
    """Print with colours where there is a terminal; rich minds NO_COLOR and COLUMNS."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(content)
    else:
        print(text.plain(content))  # type: ignore[arg-type]


VERB = Verb("show", "Show a saved plan.", arguments, run)
