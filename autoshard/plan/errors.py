"""What can be wrong with a plan: its file, or its fit to a program and a machine."""

from __future__ import annotations

from autoshard.errors import AutoshardError


class PlanError(AutoshardError, ValueError):
    """A plan, or the file it is read from, cannot be used."""


class StalePlanError(PlanError):
    """A plan was made for another program or another machine.

    Attributes:
        differences: one line each, what differs and how: "device count: 8 -> 16".
    """

    def __init__(self, message: str, differences: tuple[str, ...]) -> None:
        super().__init__(message)
        self.differences = differences
