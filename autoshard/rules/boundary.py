"""Rules of region boundaries: where values enter and leave loops, branches and remat blocks.

The tracer puts these ops in; no primitive stands behind them.
"""

from __future__ import annotations

from autoshard.program.rule import OpClass, Rule
from autoshard.rules.base import Draft


def identity(shape: tuple[int, ...]) -> Rule:
    """A value passing a boundary unchanged."""
    draft = Draft()
    dims = draft.parallels(shape)
    return draft.rule([dims], [dims], OpClass.FREE)


def scan_xs(stacked_shape: tuple[int, ...]) -> Rule:
    """One slice of a scanned input: `[length, *slice] -> [*slice]`.

    The loop reads slice after slice, so the stacked dimension stays whole.
    """
    draft = Draft()
    dims = draft.parallels(stacked_shape[1:])
    return draft.rule([(None, *dims)], [dims], OpClass.FREE)


def scan_ys(slice_shape: tuple[int, ...], length: int) -> Rule:
    """One slice of a stacked result: `[*slice] -> [length, *slice]`.

    Args:
        slice_shape: what one trip writes.
        length: trip count; the stacked dimension stays whole whatever it is.
    """
    del length
    draft = Draft()
    dims = draft.parallels(slice_shape)
    return draft.rule([dims], [(None, *dims)], OpClass.FREE)
