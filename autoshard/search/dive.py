"""Answers by decimation: decide what is certain, let messages adapt, and go on.

After a few passes the variables whose best option leads by most are frozen to it; the messages then
carry what that means for the others (as in Mézard, Parisi, Zecchina, "Analytic and algorithmic
solution of random satisfiability problems", Science 297, 2002). Where the answer in the making
overflows, the price of that time rises on the way, so the dive lands near or within the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoshard.search.dual import Dual
from autoshard.search.problem import Floats, Ints

# Passes between two rounds of freezing.
_PASSES = 2


@dataclass(frozen=True)
class Dive:
    """Where a dive ended.

    Attributes:
        choice: one option per variable, which may overflow.
        price: seconds per byte at every time, as they were at the end.
    """

    choice: Ints
    price: Floats


def dive(
    dual: Dual,
    *,
    raise_s: float,
    share: float = 0.05,
    free: Ints | None = None,
    start: Ints | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Dive:
    """Freeze variables, the most certain first, until all are.

    Args:
        dual: costs, prices and messages to start from; changed on the way.
        raise_s: what the worst overflow would cost by one round's rise of its price.
        share: part of the variables left that is frozen in a round.
        free: the variables to decide; all by default.
        start: an answer that the others keep.
        go_on: asked every round; what is left is frozen at once when false.
    """
    numbers, messages = dual.arrays, dual.messages
    if free is not None and start is not None:
        fixed = np.ones(len(start), dtype=bool)
        fixed[free] = False
        messages.low[fixed] = start[fixed]
        messages.high[fixed] = start[fixed] + 1
    least = max(int(0.01 * np.count_nonzero(messages.high - messages.low > 1)), 1)
    while True:
        for _ in range(_PASSES):
            dual.sweep()
        option, margin = messages.certainty(dual.unary)
        left = np.flatnonzero(margin >= 0)
        if len(left) == 0:
            return Dive(option, dual.prices_per_time())
        count = max(int(len(left) * share), least) if go_on() else len(left)
        surest = left[np.argsort(-margin[left], kind="stable")[:count]]
        messages.low[surest] = option[surest]
        messages.high[surest] = option[surest] + 1
        if len(numbers.free_bytes) and len(left) > count:
            excess = numbers.used_bytes(dual.decode()) - numbers.free_bytes
            fullest = int(excess.argmax())
            if excess[fullest] > 0:
                dual.watch(fullest)
                over = np.maximum(excess[dual.times], 0.0)
                if over.any():
                    dual.set_price(dual.price + raise_s * over / float(over @ over))
