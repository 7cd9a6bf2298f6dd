"""A step in some form, for both sizes of the batch that it was traced with."""

from __future__ import annotations

from dataclasses import dataclass

from autoshard import _compat


@dataclass(frozen=True)
class Form:
    """A form of a step.

    Attributes:
        big: for the whole batch,
        small: and for a part of it.
        notes: what was done to have it, a line each.
        kinds: of layers of several kinds that are one loop, the number of each one's kind; from 1
            on.
    """

    big: _compat.ClosedJaxpr
    small: _compat.ClosedJaxpr
    notes: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
