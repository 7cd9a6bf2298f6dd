"""Inner loops in a form that numba compiles; without numba they run as they stand.

Imported only for problems large enough to pay for compilation, which is cached on disk.
All arrays are those of `arrays.Graph`; `low` and `high` give each variable's options in play,
`low[i] <= option < high[i]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from autoshard.search.arrays import Floats, Graph, Ints

Function = TypeVar("Function", bound=Callable[..., object])

try:
    from numba import njit
except ImportError:
    COMPILED = False

    def compiled(function: Function) -> Function:
        return function
else:
    COMPILED = True
    compiled = njit(
        cache=True, nogil=True, boundscheck=False, fastmath={"nnan", "nsz", "reassoc", "contract"}
    )


@compiled
def sweep(
    graph: Graph, unary: Floats, messages: Floats, low: Ints, high: Ints, forward: bool
) -> float:
    """One pass of messages; see `trws.py`. Returns the bound (only the way back makes one)."""
    option_at, a, b = graph.option_at, graph.a, graph.b
    n = len(option_at) - 1
    longest = 0
    for i in range(n):
        longest = max(longest, option_at[i + 1] - option_at[i])
    total, rest, best = np.empty(longest), np.empty(longest), np.empty(longest)
    bound = 0.0
    for step in range(n):
        i = step if forward else n - 1 - step
        lo, hi, at = low[i], high[i], option_at[i]
        for s in range(lo, hi):
            total[s] = unary[at + s]
        for e in range(graph.near_at[i], graph.near_at[i + 1]):
            k = graph.near[e]
            m = graph.message_at[k, 0] if a[k] == i else graph.message_at[k, 1]
            for s in range(lo, hi):
                total[s] += messages[m + s]
        least = total[lo]
        for s in range(lo + 1, hi):
            least = min(least, total[s])
        bound += least
        share = graph.weight[i]
        for e in range(graph.near_at[i], graph.near_at[i + 1]):
            k = graph.near[e]
            first = a[k] == i
            j = b[k] if first else a[k]
            if (j > i) != forward:
                continue
            mine = graph.message_at[k, 0] if first else graph.message_at[k, 1]
            theirs = graph.message_at[k, 1] if first else graph.message_at[k, 0]
            jlo, jhi = low[j], high[j]
            for s in range(lo, hi):
                rest[s] = share * (total[s] - least) - messages[mine + s]
            table = graph.table_at[k]
            if first:
                width = option_at[j + 1] - option_at[j]
                row = table + lo * width
                for t in range(jlo, jhi):
                    best[t] = rest[lo] + graph.table[row + t]
                for s in range(lo + 1, hi):
                    row = table + s * width
                    r = rest[s]
                    for t in range(jlo, jhi):
                        best[t] = min(best[t], r + graph.table[row + t])
            else:
                width = option_at[i + 1] - option_at[i]
                for t in range(jlo, jhi):
                    row = table + t * width
                    found = rest[lo] + graph.table[row + lo]
                    for s in range(lo + 1, hi):
                        found = min(found, rest[s] + graph.table[row + s])
                    best[t] = found
            lowest = best[jlo]
            for t in range(jlo + 1, jhi):
                lowest = min(lowest, best[t])
            for t in range(jlo, jhi):
                messages[theirs + t] = best[t] - lowest
            bound += lowest
    return bound


@compiled
def decode(
    graph: Graph, unary: Floats, messages: Floats, low: Ints, high: Ints, choice: Ints
) -> None:
    """Each variable in turn takes what suits those before it, and messages of those after it."""
    option_at, a, b = graph.option_at, graph.a, graph.b
    n = len(option_at) - 1
    longest = 0
    for i in range(n):
        longest = max(longest, option_at[i + 1] - option_at[i])
    total = np.empty(longest)
    for i in range(n):
        lo, hi = low[i], high[i]
        for s in range(lo, hi):
            total[s] = unary[option_at[i] + s]
        for e in range(graph.near_at[i], graph.near_at[i + 1]):
            k = graph.near[e]
            first = a[k] == i
            j = b[k] if first else a[k]
            if j < i:
                if first:
                    width = option_at[j + 1] - option_at[j]
                    at, stride = graph.table_at[k] + choice[j], width
                else:
                    width = option_at[i + 1] - option_at[i]
                    at, stride = graph.table_at[k] + choice[j] * width, 1
                for s in range(lo, hi):
                    total[s] += graph.table[at + s * stride]
            else:
                m = graph.message_at[k, 0] if first else graph.message_at[k, 1]
                for s in range(lo, hi):
                    total[s] += messages[m + s]
        best = lo
        for s in range(lo + 1, hi):
            if total[s] < total[best]:
                best = s
        choice[i] = best
