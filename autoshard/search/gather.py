"""Terms and prices of forms -> a problem, with decisions laid out alike taken as one.

Terms of one form at the same decisions differ in nothing but when: they are counted, their numbers
multiplied, and arrays of equal bytes are one array, which later steps recognise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from autoshard.search.fullest import Counts, alive, fullest
from autoshard.search.moments import lasting
from autoshard.search.problem import Floats, Ints, Pair, Problem, Usage, Variable
from autoshard.search.terms import Terms


@dataclass(frozen=True)
class Prices:
    """What forms cost on a mesh.

    Attributes:
        sizes: per node, how many options it has.
        own_s, stored_bytes: per form, per option.
        sent_s: per form, per pair of options.
        sent_bytes: the same, or None: nothing.
    """

    sizes: tuple[int, ...]
    own_s: tuple[Floats, ...]
    stored_bytes: tuple[Floats, ...]
    sent_s: tuple[Floats, ...]
    sent_bytes: tuple[Floats | None, ...]


# More numbers than this are not counted: programs this large that do not repeat.
_MOST_COUNTS = 1 << 26

# A form as a variable or pair meets it: its array turned, or its diagonal only.
_AS_IS, _TURNED, _DIAGONAL = range(3)
_Key = tuple[int, int]
_Part = tuple[int, int]  # form, how it is met
_Lives = dict[_Key, Counter[_Part]]  # by first and last time


def gathered(
    terms: Terms,
    prices: Prices,
    place: Sequence[int],
    labels: Sequence[str],
    limit_bytes: float,
    horizon: int | None = None,
) -> Problem:
    """Add up the terms.

    Args:
        terms: of the program.
        prices: of their forms.
        place: per node, its variable.
        labels: of the variables.
        limit_bytes: per device.
        horizon: how many times there are; None leaves out those at which no answer is fuller than
            at all others, and numbers the rest anew.
    """
    size = [0] * len(labels)
    for node, k in enumerate(place):
        size[k] = prices.sizes[node]
    cost = [np.zeros(n) for n in size]
    own = Counter((place[node], form) for node, form in terms.own)
    for (k, form), times in own.items():
        cost[k] += prices.own_s[form] * times
    pairs: dict[_Key, Floats] = {}
    sent = Counter((place[a], place[b], form) for a, b, form, _, _ in terms.sent)
    for (a, b, form), times in sent.items():
        table = prices.sent_s[form]
        if a == b:
            cost[a] += np.diagonal(table) * times
            continue
        key, part = ((b, a), table.T) if a > b else ((a, b), table)
        part = part * times if times > 1 else part
        pairs[key] = pairs[key] + part if key in pairs else part
    things = _things(terms, prices, place)
    horizon, lives = _lives(things, horizon)
    bytes_of = _Bytes(prices)
    variables = tuple(
        Variable(c, bytes_of.usages(lives.get((k, k))), label)
        for k, (c, label) in enumerate(zip(cost, labels, strict=True))
    )
    return Problem(
        variables,
        tuple(
            Pair(*key, table, bytes_of.usages(lives.get(key)))
            for key, table in pairs.items()
            if key in lives or table.any()
        ),
        limit_bytes,
        horizon,
    )


@dataclass(frozen=True)
class _Things:
    """What takes room.

    Attributes:
        kinds: the variables (one twice) that lay something out, and the form it has there.
        kind, start, end: of each thing; its times are ops.
    """

    kinds: tuple[tuple[_Key, _Part], ...]
    kind: Ints
    start: Ints
    end: Ints


def _things(terms: Terms, prices: Prices, place: Sequence[int]) -> _Things:
    kinds: dict[tuple[_Key, _Part], int] = {}
    found: list[tuple[int, int, int]] = []

    def add(a: int, b: int, form: int, how: int, start: int, end: int) -> None:
        found.append((kinds.setdefault(((a, b), (form, how)), len(kinds)), start, end))

    for node, form, start, end in terms.stored:
        add(place[node], place[node], form, _AS_IS, start, end)
    for src, dst, sent, start, end in terms.sent:
        if prices.sent_bytes[sent] is None:
            continue
        a, b, form = place[src], place[dst], sent + len(prices.stored_bytes)
        if a == b:
            add(a, a, form, _DIAGONAL, start, end)
        else:
            add(min(a, b), max(a, b), form, _TURNED if a > b else _AS_IS, start, end)
    kind, start_at, end_at = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return _Things(tuple(kinds), kind, start_at, end_at)


def _lives(things: _Things, horizon: int | None) -> tuple[int, dict[_Key, _Lives]]:
    """Forms by who lays them out and when they take room; and how many times there are."""
    if horizon is not None:
        return horizon, _each(things, things.start, things.end)
    start, end, horizon = lasting(things.start, things.end)
    if horizon * len(things.kinds) > _MOST_COUNTS:
        return horizon, _each(things, start, end)
    counts = alive(start, end, things.kind, horizon, len(things.kinds))
    kept = fullest(counts)
    return len(kept), _runs(things, counts[kept])


def _each(things: _Things, starts: Ints, ends: Ints) -> dict[_Key, _Lives]:
    found: dict[_Key, _Lives] = {}
    for kind, start, end in zip(things.kind.tolist(), starts.tolist(), ends.tolist(), strict=True):
        owner, part = things.kinds[kind]
        found.setdefault(owner, {}).setdefault((start, end), Counter())[part] += 1
    return found


def _runs(things: _Things, counts: Counts) -> dict[_Key, _Lives]:
    """Stretches of time in which the same number of each of an owner's forms is alive."""
    columns: dict[_Key, list[int]] = {}
    for kind, (owner, _) in enumerate(things.kinds):
        columns.setdefault(owner, []).append(kind)
    found: dict[_Key, _Lives] = {}
    for owner, kinds in columns.items():
        own = counts[:, kinds]
        begins = [0, *(np.flatnonzero((own[1:] != own[:-1]).any(axis=1)) + 1).tolist(), len(own)]
        lives: _Lives = {}
        for start, stop in pairwise(begins):
            parts = Counter(
                {
                    things.kinds[k][1]: n
                    for k, n in zip(kinds, own[start].tolist(), strict=True)
                    if n
                }
            )
            if parts:
                lives[start, stop - 1] = parts
        found[owner] = lives
    return found


_MET: tuple[Callable[[Floats], Floats], ...] = (
    lambda size: size,
    lambda size: size.T,
    lambda size: np.diagonal(size).copy(),
)


class _Bytes:
    """Sums of forms' bytes; equal sums are one array."""

    def __init__(self, prices: Prices) -> None:
        self._forms = (*prices.stored_bytes, *prices.sent_bytes)
        self._sums: dict[frozenset[tuple[_Part, int]], Floats] = {}

    def usages(self, lives: _Lives | None) -> tuple[Usage, ...]:
        return tuple(
            Usage(start, end, self._sum(parts)) for (start, end), parts in (lives or {}).items()
        )

    def _sum(self, parts: Counter[_Part]) -> Floats:
        key = frozenset(parts.items())
        if key not in self._sums:
            arrays = [
                _MET[how](size) * times
                for (form, how), times in parts.items()
                if (size := self._forms[form]) is not None
            ]
            self._sums[key] = sum(arrays[1:], arrays[0])
        return self._sums[key]
