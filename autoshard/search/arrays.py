"""A problem as flat arrays: what fast loops read, and usage of an answer in one stroke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autoshard.search.problem import Floats, Ints, Problem, Usage


class Graph(NamedTuple):
    """Variables, pairs and who is next to whom; costs of pairs row by row.

    A pair sends a message to either end: seconds per option of that end. They lie in one array.

    Attributes:
        option_at: options of variable i are `option_at[i]` to `option_at[i + 1]` of flat arrays.
        a, b: per pair, its variables.
        table_at: where a pair's table begins in `table`.
        table: seconds.
        message_at: `[pair, 0 or 1]`, where the message to its first or second variable begins.
        near_at: entries of variable i are `near_at[i]` to `near_at[i + 1]` of `near`.
        near: pairs at a variable.
        weight: per variable, 1 / max(neighbours before, neighbours after, 1).
    """

    option_at: Ints
    a: Ints
    b: Ints
    table_at: Ints
    table: Floats
    message_at: Ints
    near_at: Ints
    near: Ints
    weight: Floats


class Room(NamedTuple):
    """Bytes with lifetimes: of variables' options, and of pairs' cells.

    What takes the same bytes of one owner at several times is one *block*.

    Attributes:
        owner: the variable (pair) of each entry; entries of one owner lie together.
        start, stop: alive from `start` up to and without `stop`.
        block: the entry's block.
        size_at: where the entry's sizes begin in `size`.
        owner_at: entries of owner k are `owner_at[k]` to `owner_at[k + 1]`.
        block_owner: the variable (pair) of each block.
        block_at: sizes of block k are `block_at[k]` to `block_at[k + 1]` of `size`.
        size: bytes per option (cell).
    """

    owner: Ints
    start: Ints
    stop: Ints
    block: Ints
    size_at: Ints
    owner_at: Ints
    block_owner: Ints
    block_at: Ints
    size: Floats


class Arrays(NamedTuple):
    """See the module's docstring.

    Attributes:
        graph: who costs what with whom.
        unary: seconds per option.
        room, pair_room: bytes of options and of pairs' cells.
        free_bytes: what may be in use at each time beyond what always is.
        hair_bytes: this much more is put down to rounding; less than one byte.
        base_cost_s: what every answer pays.
    """

    graph: Graph
    unary: Floats
    room: Room
    pair_room: Room
    free_bytes: Floats
    hair_bytes: float
    base_cost_s: float

    def used_bytes(self, choice: Ints) -> Floats:
        """Bytes in use at each time by an answer, beyond what always is."""
        delta = np.zeros(len(self.free_bytes) + 1)
        graph = self.graph
        count = np.diff(graph.option_at)
        cell = choice[graph.a] * count[graph.b] + choice[graph.b]
        for room, taken in ((self.room, choice), (self.pair_room, cell)):
            if len(room.owner):
                size = room.size[room.size_at + taken[room.owner]]
                delta += np.bincount(room.start, size, len(delta))
                delta -= np.bincount(room.stop, size, len(delta))
        return delta[:-1].cumsum()

    def cost_s(self, choice: Ints) -> float:
        """The objective at an answer."""
        graph = self.graph
        count = np.diff(graph.option_at)
        cell = choice[graph.a] * count[graph.b] + choice[graph.b]
        own = self.unary[graph.option_at[:-1] + choice].sum()
        return self.base_cost_s + float(own + graph.table[graph.table_at[:-1] + cell].sum())

    def fits(self, used_bytes: Floats) -> bool:
        """Whether what `used_bytes` says is free at all times."""
        return bool((used_bytes <= self.free_bytes + self.hair_bytes).all())

    def at_time(self, when: int) -> Floats:
        """Bytes per option alive at a time."""
        room = self.room
        alive = ((room.start <= when) & (when < room.stop)).astype(np.float64)
        return _spread(room, alive, self.graph.option_at, len(self.unary))

    def priced_unary(self, price: Floats) -> Floats:
        """Seconds per option with memory charged for, at seconds per byte for each time."""
        return self.unary + _charge(self.room, price, self.graph.option_at, len(self.unary))

    def priced_table(self, price: Floats) -> Floats:
        """Seconds per cell with memory charged for, at seconds per byte for each time."""
        graph = self.graph
        return graph.table + _charge(self.pair_room, price, graph.table_at, len(graph.table))

    def shared_bytes(self, share: Floats) -> Floats:
        """Bytes in use at each time when options are taken in parts; a cell's part is a product."""
        graph = self.graph
        delta = np.zeros(len(self.free_bytes) + 1)
        parts = [(self.room, share, graph.option_at)]
        if len(self.pair_room.owner):
            at = graph.option_at
            cells = [
                np.outer(share[at[a] : at[a + 1]], share[at[b] : at[b + 1]]).ravel()
                for a, b in zip(graph.a, graph.b, strict=True)
            ]
            parts.append((self.pair_room, np.concatenate(cells), graph.table_at))
        for room, part, at in parts:
            if len(room.owner):
                sizes = part[_where(room, at)] * room.size
                size = np.add.reduceat(sizes, room.block_at[:-1])[room.block]
                delta += np.bincount(room.start, size, len(delta))
                delta -= np.bincount(room.stop, size, len(delta))
        return delta[:-1].cumsum()


def _charge(room: Room, price: Floats, at: Ints, length: int) -> Floats:
    """Seconds per option (cell): price of each time it is alive x its bytes."""
    total = np.concatenate([[0.0], price.cumsum()])
    return _spread(room, total[room.stop] - total[room.start], at, length)


def _spread(room: Room, rate: Floats, at: Ints, length: int) -> Floats:
    """Sum over entries of rate x bytes, at the owner's options (cells)."""
    if not len(rate):
        return np.zeros(length)
    # numpy's stubs take weighted counts for integers.
    rates = np.bincount(room.block, rate, len(room.block_owner)).astype(np.float64)
    size = np.repeat(rates, np.diff(room.block_at)) * room.size
    return np.bincount(_where(room, at), size, length).astype(np.float64)


def _where(room: Room, at: Ints) -> Ints:
    """Per entry of `room.size`, the option (cell) it belongs to; owner k's begin at `at[k]`."""
    begin = at[room.block_owner] - room.block_at[:-1]
    return np.arange(len(room.size)) + np.repeat(begin, np.diff(room.block_at))


def arrays(problem: Problem) -> Arrays:
    """The problem as arrays."""
    variables, pairs = problem.variables, problem.pairs
    counts = [len(v.cost_s) for v in variables]
    option_at = _offsets(counts)
    a = np.array([p.a for p in pairs], dtype=np.int64)
    b = np.array([p.b for p in pairs], dtype=np.int64)
    n = len(variables)
    sides = np.stack([a, b], axis=1) if len(pairs) else np.zeros((0, 2), dtype=np.int64)
    message_at = _offsets(np.asarray(counts, dtype=np.int64)[sides].ravel())[:-1].reshape(-1, 2)
    order = np.argsort(sides.ravel(), kind="stable")
    near_at = _offsets(np.bincount(sides.ravel(), minlength=n))
    first, last = np.minimum(a, b), np.maximum(a, b)
    after, before = np.bincount(first, minlength=n), np.bincount(last, minlength=n)
    graph = Graph(
        option_at,
        a,
        b,
        _offsets([p.cost_s.size for p in pairs]),
        _joined([p.cost_s for p in pairs]),
        message_at,
        near_at,
        order // 2,
        1.0 / np.maximum(np.maximum(after, before), 1),
    )
    free = np.full(problem.horizon, problem.limit_bytes)
    if problem.base_bytes is not None:
        free = free - problem.base_bytes
    return Arrays(
        graph,
        _joined([v.cost_s for v in variables]),
        _room([v.usage for v in variables]),
        _room([p.usage for p in pairs]),
        free,
        problem.hair_bytes,
        problem.base_cost_s,
    )


def _room(usages: Sequence[Sequence[Usage]]) -> Room:
    owner = [k for k, usage in enumerate(usages) for _ in usage]
    every = [u for usage in usages for u in usage]
    blocks: dict[tuple[int, int], int] = {}
    block = np.array(
        [
            blocks.setdefault((k, id(u.size_bytes)), len(blocks))
            for k, u in zip(owner, every, strict=True)
        ],
        dtype=np.int64,
    )
    _, first = np.unique(block, return_index=True)
    sizes = [every[i].size_bytes for i in first]
    block_at = _offsets([size.size for size in sizes])
    return Room(
        np.array(owner, dtype=np.int64),
        np.array([u.start for u in every], dtype=np.int64),
        np.array([u.end + 1 for u in every], dtype=np.int64),
        block,
        block_at[block],
        _offsets([len(usage) for usage in usages]),
        np.array([k for k, _ in blocks], dtype=np.int64),
        block_at,
        _joined(sizes),
    )


def _offsets(counts: Sequence[int] | Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def _joined(parts: Sequence[Floats]) -> Floats:
    if not parts:
        return np.zeros(0)
    return np.ascontiguousarray(np.concatenate([np.ravel(p) for p in parts]), dtype=np.float64)
