"""`autoshard demo`: the five-minute tour."""

from __future__ import annotations

import argparse

from autoshard.cli.verb import Verb, resolve

DEMO = "autoshard.cli._demo:main"


def arguments(parser: argparse.ArgumentParser) -> None:
    """None: it has to work as it is."""


def run(args: argparse.Namespace) -> int:
    """Run it."""
    status = resolve(DEMO)()
    return status if isinstance(status, int) else 0


VERB = Verb("demo", "Plan and train a small model on simulated devices.", arguments, run)
