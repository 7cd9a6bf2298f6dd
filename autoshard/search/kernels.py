"""Inner loops in a form that numba compiles; without numba they run as they stand.

Imported only for problems large enough to pay for compilation, which is cached on disk.
All arrays are those of `arrays.Graph`; `low` and `high` give each variable's options in play,
`low[i] <= option < high[i]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np

from autoshard.search.arrays import Graph, Room
from autoshard.search.problem import Floats, Ints

Function = TypeVar("Function", bound=Callable[..., object])

try:
    from numba import njit
except ImportError:
    COMPILED = False

    def compiled(function: Function) -> Function:
        """Leave a function as it is."""
        return function
else:
    COMPILED = True
    _FAST = {"nnan", "nsz", "reassoc", "contract"}
    _njit = njit(cache=True, nogil=True, boundscheck=False, fastmath=_FAST)

    def compiled(function: Function) -> Function:
        """Compile a function when it is first called."""
        return cast("Function", _njit(function))


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


@compiled
def certainty(
    graph: Graph,
    unary: Floats,
    messages: Floats,
    low: Ints,
    high: Ints,
    option: Ints,
    margin: Floats,
) -> None:
    """Per variable: the option of least total, and how far the next is; -1 where there is none."""
    n = len(graph.option_at) - 1
    longest = 0
    for i in range(n):
        longest = max(longest, graph.option_at[i + 1] - graph.option_at[i])
    total = np.empty(longest)
    for i in range(n):
        lo, hi = low[i], high[i]
        option[i], margin[i] = lo, -1.0
        if hi - lo < 2:
            continue
        for s in range(lo, hi):
            total[s] = unary[graph.option_at[i] + s]
        for e in range(graph.near_at[i], graph.near_at[i + 1]):
            k = graph.near[e]
            m = graph.message_at[k, 0] if graph.a[k] == i else graph.message_at[k, 1]
            for s in range(lo, hi):
                total[s] += messages[m + s]
        least, second = np.inf, np.inf
        for s in range(lo, hi):
            if total[s] < least:
                second = least
                least = total[s]
                option[i] = s
            elif total[s] < second:
                second = total[s]
        margin[i] = second - least


@compiled
def tree_moves(
    graph: Graph,
    unary: Floats,
    charge: Floats,
    pair_charge: Floats,
    scale: float,
    room: Room,
    pair_room: Room,
    free: Floats,
    used: Floats,
    hair: float,
    choice: Ints,
    seed: int,
    moves: int,
    largest: int,
) -> float:
    """Best answers on random trees, everything else fixed; see `trees.py`.

    `choice` and `used` change in place. `charge` is priced memory per option, `pair_charge` per
    cell (empty: pairs take no room). Returns the overflow left, bytes summed over times.
    """
    option_at, a, b = graph.option_at, graph.a, graph.b
    near_at, near, table = graph.near_at, graph.near, graph.table
    n = len(option_at) - 1
    horizon = len(free)
    longest = 1
    for i in range(n):
        longest = max(longest, option_at[i + 1] - option_at[i])
    inside = np.full(n, -1, np.int64)  # position in the tree
    touching = np.zeros(n, np.int64)  # neighbours in the tree
    link = np.zeros(n, np.int64)  # pair to the first of them
    seen = np.empty(n, np.int64)
    frontier = np.empty(n, np.int64)
    tree = np.empty(largest, np.int64)
    parent = np.empty(largest, np.int64)
    least = np.empty((largest, longest))
    own = np.empty(longest)
    follow = np.empty((largest, longest), np.int64)
    fresh = np.empty(largest, np.int64)
    diff = np.zeros(horizon + 1)
    overflow = 0.0
    for t in range(horizon):
        overflow += max(used[t] - free[t] - hair, 0.0)
    for _ in range(moves):
        # A tree: every variable added touches exactly one of those before it.
        seed = (seed * 25214903917 + 11) & 281474976710655
        root = (seed >> 16) % n
        seed = (seed * 25214903917 + 11) & 281474976710655
        target = 1 + (seed >> 16) % largest
        size, seens, front = 0, 0, 1
        frontier[0] = root
        while size < target and front > 0:
            seed = (seed * 25214903917 + 11) & 281474976710655
            at = (seed >> 16) % front
            i = frontier[at]
            front -= 1
            frontier[at] = frontier[front]
            if inside[i] >= 0 or touching[i] > 1:
                continue
            if option_at[i + 1] - option_at[i] < 2:
                continue
            inside[i] = size
            tree[size] = i
            parent[size] = -1
            if size > 0:
                k = link[i]
                parent[size] = inside[b[k]] if a[k] == i else inside[a[k]]
            size += 1
            for e in range(near_at[i], near_at[i + 1]):
                k = near[e]
                j = b[k] if a[k] == i else a[k]
                if touching[j] == 0:
                    seen[seens] = j
                    seens += 1
                    if inside[j] < 0:
                        link[j] = k
                        frontier[front] = j
                        front += 1
                touching[j] += 1
        # Leaves first: the least of everything below, per option.
        for p in range(size):
            for s in range(option_at[tree[p] + 1] - option_at[tree[p]]):
                least[p, s] = 0.0
        current = 0.0
        for q in range(size):
            p = size - 1 - q
            i = tree[p]
            count = option_at[i + 1] - option_at[i]
            for s in range(count):
                own[s] = unary[option_at[i] + s] + scale * charge[option_at[i] + s]
            for e in range(near_at[i], near_at[i + 1]):
                k = near[e]
                first = a[k] == i
                j = b[k] if first else a[k]
                if inside[j] >= 0:
                    continue
                width = option_at[b[k] + 1] - option_at[b[k]]
                if first:
                    start, stride = graph.table_at[k] + choice[j], width
                else:
                    start, stride = graph.table_at[k] + choice[j] * width, 1
                for s in range(count):
                    own[s] += table[start + s * stride]
                if len(pair_charge) > 0:
                    for s in range(count):
                        own[s] += scale * pair_charge[start + s * stride]
            current += own[choice[i]]
            for s in range(count):
                least[p, s] += own[s]
            if p == 0:
                continue
            k = link[i]
            first = a[k] == i
            j = b[k] if first else a[k]
            width = option_at[b[k] + 1] - option_at[b[k]]
            up = parent[p]
            step, jump = (width, 1) if first else (1, width)
            for t in range(option_at[j + 1] - option_at[j]):
                start = graph.table_at[k] + t * jump
                best, who = np.inf, 0
                for s in range(count):
                    value = least[p, s] + table[start + s * step]
                    if len(pair_charge) > 0:
                        value += scale * pair_charge[start + s * step]
                    if value < best or (value == best and s == choice[i]):
                        best = value
                        who = s
                least[up, t] += best
                follow[p, t] = who
            cell = graph.table_at[k] + choice[i] * step + choice[j] * jump
            current += table[cell]
            if len(pair_charge) > 0:
                current += scale * pair_charge[cell]
        change = 0.0
        changed = 0
        if size > 0:
            i = tree[0]
            best = choice[i]
            for s in range(option_at[i + 1] - option_at[i]):
                if least[0, s] < least[0, best]:
                    best = s
            change = least[0, best] - current
            fresh[0] = best
            changed += best != choice[i]
            for p in range(1, size):
                fresh[p] = follow[p, fresh[parent[p]]]
                changed += fresh[p] != choice[tree[p]]
        if changed > 0 and (change < -1e-12 * abs(current) or overflow > 0.0):
            # Bytes: changes at the ends of lifetimes, summed up along time.
            begin, finish = horizon, 0
            for p in range(size):
                i = tree[p]
                old, new = choice[i], fresh[p]
                if old == new:
                    continue
                for g in range(room.owner_at[i], room.owner_at[i + 1]):
                    more = room.size[room.size_at[g] + new] - room.size[room.size_at[g] + old]
                    if more != 0.0:
                        diff[room.start[g]] += more
                        diff[room.stop[g]] -= more
                        begin = min(begin, room.start[g])
                        finish = max(finish, room.stop[g])
                if len(pair_room.owner) == 0:
                    continue
                for e in range(near_at[i], near_at[i + 1]):
                    k = near[e]
                    j = b[k] if a[k] == i else a[k]
                    other_old = choice[j]
                    other_new = fresh[inside[j]] if inside[j] >= 0 else other_old
                    if other_new != other_old and j < i:
                        continue  # counted at the other end
                    width = option_at[b[k] + 1] - option_at[b[k]]
                    if a[k] == i:
                        was, will = old * width + other_old, new * width + other_new
                    else:
                        was, will = other_old * width + old, other_new * width + new
                    for g in range(pair_room.owner_at[k], pair_room.owner_at[k + 1]):
                        at = pair_room.size_at[g]
                        more = pair_room.size[at + will] - pair_room.size[at + was]
                        if more != 0.0:
                            diff[pair_room.start[g]] += more
                            diff[pair_room.stop[g]] -= more
                            begin = min(begin, pair_room.start[g])
                            finish = max(finish, pair_room.stop[g])
            running, rise = 0.0, 0.0
            fits = True
            for t in range(begin, finish):
                running += diff[t]
                if running != 0.0:
                    over = used[t] - free[t] - hair
                    rise += max(over + running, 0.0) - max(over, 0.0)
                    if rise > 0.0 and overflow == 0.0:
                        fits = False
                        break
            if rise > 0.0 or (rise == 0.0 and change >= -1e-12 * abs(current)):
                fits = False
            running = 0.0
            for t in range(begin, finish + 1):
                running += diff[t]
                diff[t] = 0.0
                if fits and t < finish:
                    used[t] += running
            if fits:
                overflow = max(overflow + rise, 0.0)
                for p in range(size):
                    choice[tree[p]] = fresh[p]
                if overflow < 1e-6:
                    overflow = 0.0
                    for t in range(horizon):
                        overflow += max(used[t] - free[t] - hair, 0.0)
        for q in range(seens):
            touching[seen[q]] = 0
        for p in range(size):
            inside[tree[p]] = -1
    return overflow
