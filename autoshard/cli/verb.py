"""What a verb of the command line is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from autoshard.errors import AutoshardError


class UsageError(AutoshardError):
    """What was asked for cannot be understood; exit status 2."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A name, one sentence of help, its arguments, and what runs: exit status out."""

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def resolve(name: str) -> Any:
    """The attribute that "module:attribute" names.

    The way the command line reaches rooms that import JAX, so that `show`, `diff` and `explain`
    do not.

    Raises:
        UsageError: there is no such module or attribute.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that misses one of its own imports is broken, and its traceback says where.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"no module {error.name!r}, wanted for {name!r}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UsageError(f"module {module_name!r} has no {attribute!r}") from error
