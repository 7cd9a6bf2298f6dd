"""What an array occupies where memory comes in tiles.

A TPU keeps arrays as tiles of 8 x 128 elements: the minor dimension is padded to a multiple of 128
(lanes), the next to a multiple of 8 (sublanes), or to 1, 2 or 4 if it is no longer than that
(https://openxla.org/xla/tiled_layout). XLA chooses the two minor dimensions of every value inside
a program, and mostly takes those that waste least.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def padded_elements(shape: Sequence[Floats], tile: tuple[int, int]) -> Floats:
    """Elements that an array occupies, in the layout that wastes least; per layout.

    Args:
        shape: sizes of its dimensions on one device, each an array over layouts.
        tile: sublanes and lanes.
    """
    sublanes, lanes = tile
    whole: Floats = np.prod(np.array([np.asarray(s, dtype=np.float64) for s in shape]), axis=0)
    if not shape:
        return np.ones(())
    if len(shape) == 1:
        return _to_multiple(shape[0], lanes)
    shape = [np.maximum(s, 1.0) for s in shape]  # what is empty stays so, by `whole`
    by_lanes = [_to_multiple(s, lanes) / s for s in shape]
    by_sublanes = [
        np.where(s < sublanes, 2.0 ** np.ceil(np.log2(s)), _to_multiple(s, sublanes)) / s
        for s in shape
    ]
    waste = [by_sublanes[i] * by_lanes[j] for i, j in itertools.permutations(range(len(shape)), 2)]
    found: Floats = whole * np.min(waste, axis=0)
    return found


def row_major_elements(shape: Sequence[Floats], tile: tuple[int, int]) -> Floats:
    """Elements that an array of two dimensions or more occupies with its last dimension on lanes.

    Args:
        shape: sizes of its dimensions on one device, each an array over layouts.
        tile: sublanes and lanes.
    """
    sublanes, lanes = tile
    *outer, rows, columns = shape
    tiles = _to_multiple(rows, sublanes) * _to_multiple(columns, lanes)
    found: Floats = np.prod(np.array([np.asarray(s, dtype=np.float64) for s in outer]), axis=0)
    return found * tiles


def _to_multiple(size: Floats, of: int) -> Floats:
    found: Floats = np.ceil(size / of) * of
    return found
