"""A step in some form, for both sizes of the batch that it was traced with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoshard import _compat
from autoshard.trace.batch import paired


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


def twins(big: _compat.Jaxpr, small: _compat.Jaxpr) -> dict[Any, Any]:
    """Variables of a step for the whole batch -> the same for a part of it.

    Raises:
        MicrobatchError: the two do not do the same.
    """
    found = dict[Any, Any](zip(big.invars, small.invars, strict=True))
    found.update(zip(big.constvars, small.constvars, strict=True))
    for x, y in paired(big, small):
        found.update(zip(x.outvars, y.outvars, strict=True))
    return found
