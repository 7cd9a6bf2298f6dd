"""Times at which memory may be fullest, of a program whose repeated layers are laid out alike.

At each time so many of each kind of thing are alive, a kind being what one decision (or two) lays
out in one form. In the forward pass each layer adds its activations to those of the layers before;
in the backward pass each takes its activations away and adds its gradients. Seen at one place of
the layer, what is alive changes by the same amount from layer to layer, so that no layer between
the first and the last is fuller than both, whatever the layouts:

    alive(t) <= (1 - share) * alive(first) + share * alive(last)  for all kinds, 0 <= share <= 1.

Such times are left out. Every answer's peak stays what it was, and the number of times does not
grow with depth.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from autoshard.search.problem import Ints

Counts = NDArray[np.int32]


def alive(start: Ints, end: Ints, kind: Ints, horizon: int, kinds: int) -> Counts:
    """How many of each kind are alive `[time, kind]`.

    Args:
        start: first time of each thing.
        end: the last one, included.
        kind: of each thing.
        horizon: how many times there are.
        kinds: how many kinds there are.
    """
    change = np.zeros((horizon + 1, kinds), dtype=np.int32)
    np.add.at(change, (start, kind), 1)
    np.subtract.at(change, (end + 1, kind), 1)
    return np.cumsum(change[:-1], axis=0, out=change[:-1])


def fullest(counts: Counts) -> Ints:
    """The times that matter, ascending; see the module's docstring.

    Args:
        counts: from `alive`.
    """
    # Times at one place of the layer have the same kinds alive.
    places: dict[bytes, list[int]] = defaultdict(list)
    for when, row in enumerate(np.packbits(counts > 0, axis=1)):
        places[row.tobytes()].append(when)
    kept: list[int] = []
    for times in places.values():
        kept += _corners(counts, times)
    return np.array(sorted(kept), dtype=np.int64)


def _corners(counts: Counts, times: list[int]) -> list[int]:
    """Of times in a row those that are not between the first and the last."""
    rows = counts[times].astype(np.int64)
    rows = rows[:, rows.any(axis=0)]
    if len(times) == 1 or (rows[-1] >= rows).all():
        return times[-1:]
    if (rows[0] >= rows).all():
        return times[:1]
    first, last = rows[0], rows[-1]
    change = last - first
    # The share of the way, from the kind that changes most: a quotient, so that all stays exact.
    most = int(np.abs(change).argmax())
    whole = max(abs(int(change[most])), 1)
    way = np.clip((rows[:, most] - first[most]) * np.sign(change[most]), 0, whole)[:, None]
    between = (rows * whole <= first * (whole - way) + last * way).all(axis=1)
    between[[0, -1]] = False
    return [when for when, inside in zip(times, between.tolist(), strict=True) if not inside]
