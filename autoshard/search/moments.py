"""Which times matter: where memory can be full, and is not less full than at another time.

A time is left out when everything alive at it is alive at a neighbouring time that matters (with no
less in use already), or when even the largest options fit. The rest are numbered anew.
"""

from __future__ import annotations

import numpy as np

from autoshard.search.problem import Floats, Ints


def moments(start: Ints, end: Ints, most_bytes: Floats, base_bytes: Floats, limit: float) -> Ints:
    """Times that matter, ascending.

    Args:
        start: first time at which each thing takes room.
        end: the last one, included.
        most_bytes: the most that each may take; the least is 0.
        base_bytes: in use at each time whatever is decided.
        limit: bytes that may be in use.
    """
    horizon = len(base_bytes)
    if horizon == 0:
        return np.zeros(0, dtype=np.int64)
    change = np.zeros(horizon + 1)
    np.add.at(change, start, most_bytes)
    np.subtract.at(change, end + 1, most_bytes)
    # Sums of many terms: a hair below the limit counts as above.
    most = change.cumsum()[:-1] + base_bytes
    kept = np.flatnonzero(most > limit * (1 - 1e-9))
    started = np.bincount(start, minlength=horizon + 1).cumsum()
    ended = np.bincount(end + 1, minlength=horizon + 1).cumsum()
    while len(kept) > 1:
        before, after = kept[:-1], kept[1:]
        # Nothing alive before ends in between: all of it is alive after as well.
        lasting = ended[after] == ended[before]
        drop_before = lasting & (base_bytes[before] <= base_bytes[after])
        # Nothing starts in between: all that is alive after was alive before.
        older = started[after] == started[before]
        drop_after = older & (base_bytes[after] <= base_bytes[before])
        # Of two that replace each other one stays; and what replaces another stays this round.
        drop_after &= ~drop_before
        drop_after[:-1] &= ~drop_before[1:]
        stay = np.ones(len(kept), dtype=bool)
        stay[:-1] &= ~drop_before
        chained = np.zeros(len(kept), dtype=bool)
        chained[1:] = drop_after
        chained[1:] &= stay[:-1]
        stay &= ~chained
        if stay.all():
            break
        kept = kept[stay]
    return kept


def lasting(start: Ints, end: Ints) -> tuple[Ints, Ints, int]:
    """Times numbered anew without those at which nothing is alive that is not at another.

    Args:
        start: first time of each thing.
        end: the last one, included.

    Returns:
        The same with new numbers, and how many times are left. Every peak stays what it was.
    """
    horizon = int(end.max(initial=-1)) + 1
    kept = moments(start, end, np.ones(len(start)), np.zeros(horizon), -1.0)
    return np.searchsorted(kept, start), np.searchsorted(kept, end, side="right") - 1, len(kept)
