"""`autoshard machines`: the chips that can be planned for, and what is known of each."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from autoshard.cli.verb import Verb
from autoshard.machine import load_catalog
from autoshard.machine.catalogue import CatalogEntry
from autoshard.machine.parse import find_entry
from autoshard.machine.table import HEADERS, markdown, rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "chip", metavar="CHIP", nargs="?", help="such as h100: every number with its source"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="the table as it stands in docs/machines.md"
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    if args.chip is not None:
        _sources(find_entry(args.chip))
    elif args.markdown:
        print(markdown(), end="")
    else:
        table = Table(*(h for h in HEADERS if h != "write"), box=None, pad_edge=False)
        for row in rows():
            cells = (c for h, c in zip(HEADERS, row, strict=True) if h != "write")
            table.add_row(*(cell.replace("`", "") for cell in cells))
        Console().print(table)
        print(f"{len(load_catalog())} chips; autoshard machines CHIP shows every source")
    return 0


def _sources(entry: CatalogEntry) -> None:
    print(f"{entry.name}: {entry.title}")
    for key, citation in entry.citations.items():
        section, _, number = key.rpartition(".")
        table = entry.data["variants"] if section.startswith("variants.") else entry.data
        value = table[section.removeprefix("variants.")][number]["value"]
        where = f", {citation.url}" if citation.url else ""
        print(f"  {key} = {value}  ({citation.title}, {citation.date}{where})")
    for key in entry.unknown:
        print(f"  {key}: not known; planning for {entry.name} is refused")


VERB = Verb("machines", "List the chips that can be planned for.", arguments, run)
