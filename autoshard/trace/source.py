"""The line of the user's own code that an equation comes from."""

from __future__ import annotations

import functools
import os

from autoshard import _compat

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OWN_MODELS = tuple(os.path.join(_OWN, room) for room in ("models", "strategies"))


@functools.lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Installed packages and autoshard itself (but not its model zoo) are no user code."""
    if "site-packages" in file or "dist-packages" in file:
        return True
    return file.startswith(_OWN + os.sep) and not file.startswith(_OWN_MODELS)


def own_line(eqn: _compat.JaxprEqn) -> str:
    """The innermost frame of user code as "file:line"; "" where an equation knows of none.

    Libraries that compile what they do keep it between calls, and it no longer knows who called.
    """
    frames = _compat.user_frames(eqn)
    return next((f"{file}:{line}" for file, line in frames if not is_library(file)), "")


def user_line(eqn: _compat.JaxprEqn) -> str:
    """The innermost frame of user code as "file:line"; of any code if there is none, or ""."""
    frames = _compat.user_frames(eqn)
    others = (f"{file}:{line}" for file, line in frames if not file.startswith(_OWN + os.sep))
    return own_line(eqn) or next(others, "")
