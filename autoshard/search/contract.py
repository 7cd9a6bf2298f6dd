"""Forbidden pairs worked off: options without a partner dropped, followers merged.

A pair costs infinity where two options exclude each other. Three exact steps, over a worklist of
edges so that the whole is linear in what changes:

* an option that no option of a neighbour allows is dropped (arc consistency);
* where each option of one variable allows a single option of the other, the other follows: its
  costs and bytes move over and it is gone. Of two that follow each other the one with more
  neighbours stays;
* a table that is the sum of a row and a column is no edge: its parts go to the two variables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from autoshard.search.network import Network
from autoshard.search.problem import Floats, Ints

# A table counts as row + column when it differs by less than this fraction of its largest entry.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class _Facts:
    """What one table says.

    Attributes:
        parts: row and column parts, if it is their sum.
        rows, columns: positions with a finite entry, if there are others; otherwise None.
        row_of: per column its only finite row, if every column has one.
        column_of: per row its only finite column, if every row has one.
    """

    parts: tuple[Floats, Floats] | None = None
    rows: Ints | None = None
    columns: Ints | None = None
    row_of: Ints | None = None
    column_of: Ints | None = None


def _look(table: Floats) -> _Facts:
    first = table[0, 0]
    if np.isfinite(first):
        row, column = table[:, 0], table[0] - first
        with np.errstate(invalid="ignore"):
            difference = np.abs(table - row[:, None] - column[None, :]).max()
        if difference == 0.0 or difference <= _ROUNDING * np.abs(table).max():
            return _Facts(parts=(row, column))
    finite = np.isfinite(table)
    if finite.all():
        return _Facts()
    per_row, per_column = finite.sum(axis=1), finite.sum(axis=0)
    if not per_row.all() or not per_column.all():
        return _Facts(rows=np.flatnonzero(per_row), columns=np.flatnonzero(per_column))
    return _Facts(
        row_of=finite.argmax(axis=0) if (per_column == 1).all() else None,
        column_of=finite.argmax(axis=1) if (per_row == 1).all() else None,
    )


def contract(net: Network, edges: Iterable[tuple[int, int]]) -> bool:
    """Work off the given edges and all that change on the way.

    Returns:
        False when some variable is left without any option: nothing is feasible.
    """
    queue = deque(edges)
    waiting = set(queue)
    # Large inputs repeat few tables; what one says is looked up, not computed anew.
    seen: dict[int, tuple[Floats, _Facts]] = {}

    def push(i: int, j: int) -> None:
        key = (i, j) if i < j else (j, i)
        if key not in waiting:
            waiting.add(key)
            queue.append(key)

    while queue:
        a, b = queue.popleft()
        waiting.discard((a, b))
        edge = net.near[a].get(b)
        if edge is None:
            continue
        net.table(a, b)
        a, b, table = edge.a, edge.b, edge.table
        if id(table) in seen:
            facts = seen[id(table)][1]
        else:
            facts = _look(table)
            seen[id(table)] = (table, facts)
        if facts.rows is not None and facts.columns is not None:
            for i, stay in ((a, facts.rows), (b, facts.columns)):
                if len(stay) == 0:
                    return False
                if len(stay) < len(net.options[i]):
                    net.restrict(i, stay)
                    for j in net.near[i]:
                        push(i, j)
        elif facts.parts is not None and not edge.usage:
            net.cost[a] = net.cost[a] + facts.parts[0]
            net.cost[b] = net.cost[b] + facts.parts[1]
            net.detach(a, b)
        elif facts.row_of is not None or facts.column_of is not None:
            both = facts.row_of is not None and facts.column_of is not None
            if facts.row_of is not None and not (both and len(net.near[a]) > len(net.near[b])):
                follower, leader, position = a, b, facts.row_of
            else:
                assert facts.column_of is not None
                follower, leader, position = b, a, facts.column_of
            moved = [j for j in net.near[follower] if j != leader]
            net.merge(follower, leader, position)
            for j in moved:
                push(leader, j)
    return True
