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


def user_line(eqn: _compat.JaxprEqn) -> str:
    """The innermost frame of user code as "file:line"; of any code if there is none, or ""."""
    first = ""
    for file, line in _compat.user_frames(eqn):
        here = f"{file}:{line}"
        if not is_library(file):
            return here
        if not first and not file.startswith(_OWN + os.sep):
            first = here
    return first
