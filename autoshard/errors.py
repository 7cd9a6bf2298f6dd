"""Errors a user can meet. Each says what, where, the numbers, and what to change."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = "autoshard."


class AutoshardError(Exception):
    """Base of every error this package raises on purpose."""


class AutoshardWarning(UserWarning):
    """Something was done that the user may not expect: planned again, moved, left whole."""


def warn(text: str) -> None:
    """Warn at the line of the user's that called into this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, AutoshardWarning, stacklevel=level)


class StateMismatchError(AutoshardError, TypeError):
    """The step's output state does not match its input state."""


class InfeasibleError(AutoshardError):
    """No layout fits the memory limit.

    Attributes:
        least_bytes: the least limit per device for which a plan exists.
    """

    def __init__(self, message: str, least_bytes: float) -> None:
        super().__init__(message)
        self.least_bytes = least_bytes


class StrategyError(AutoshardError, ValueError):
    """A strategy means nothing for the program, or for the mesh."""


class IntentError(AutoshardError, ValueError):
    """A pin, ban, tie or preference matches nothing, cannot be met, or contradicts another."""


class MicrobatchError(AutoshardError, ValueError):
    """The step cannot be taken in microbatches: not the same sums would come out, or nothing would.

    The message says which line of the user's is in the way.
    """


class PipelineError(AutoshardError, ValueError):
    """The layers of a step cannot be cut into stages; the message says what is in the way."""


class UnknownPrimitiveError(AutoshardError):
    """Strict mode, and the program holds a primitive without a sharding rule."""


class SearchInterrupted(AutoshardError, KeyboardInterrupt):
    """Ctrl-C before any plan was found."""
