"""How a plan shows itself without knowing the rooms above it.

`Plan` is a value at the bottom of the package: reports, and everything that imports JAX, import it,
so it cannot import them. Yet `print(plan)`, a notebook cell and `plan.shardings(...)` must work on
the value. This table is the whole of that exception: names of functions, resolved when they are
called and not before, so that reading a plan imports neither rich nor JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

VIEWS = {
    "text": "autoshard.report.text:render",
    "rich": "autoshard.report.text:renderable",
    "html": "autoshard.report.html:render",
    "explain": "autoshard.report.explain:render",
    "shardings": "autoshard.execute.shardings:plan_shardings",
}


def view(name: str) -> Callable[..., Any]:
    """The function behind a name of the table.

    Raises:
        KeyError: no such view.
        ImportError: its room is not installed.
    """
    module, _, attribute = VIEWS[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found
