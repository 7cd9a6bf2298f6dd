"""Terms and prices of forms -> a problem, with decisions laid out alike taken as one.

Terms of one form at the same decisions differ in nothing but when: they are counted, their numbers
multiplied, and arrays of equal bytes are one array, which later steps recognise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.moments import lasting
from autoshard.search.problem import Floats, Pair, Problem, Usage, Variable
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
        horizon: how many times there are; None leaves out those at which everything is alive that
            is at another, and numbers the rest anew.
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
    stored, copies, horizon = _lives(terms, prices, place, horizon)
    bytes_of = _Bytes(prices)
    variables = tuple(
        Variable(c, bytes_of.usages(stored.get(k)), label)
        for k, (c, label) in enumerate(zip(cost, labels, strict=True))
    )
    return Problem(
        variables,
        tuple(
            Pair(*key, table, bytes_of.usages(copies.get(key)))
            for key, table in pairs.items()
            if key in copies or table.any()
        ),
        limit_bytes,
        horizon,
    )


def _lives(
    terms: Terms, prices: Prices, place: Sequence[int], horizon: int | None
) -> tuple[dict[int, _Lives], dict[_Key, _Lives], int]:
    """Forms of variables and of pairs, by when they take room; and how many times there are."""
    kept = [x for x in terms.sent if prices.sent_bytes[x[2]] is not None]
    start = np.array([x[2] for x in terms.stored] + [x[3] for x in kept], dtype=np.int64)
    end = np.array([x[3] for x in terms.stored] + [x[4] for x in kept], dtype=np.int64)
    if horizon is None:
        start, end, horizon = lasting(start, end)
    lives = list(zip(start.tolist(), end.tolist(), strict=True))
    stored: dict[int, _Lives] = {}
    for (node, form, _, _), life in zip(terms.stored, lives, strict=False):
        own = stored.setdefault(place[node], {})
        own.setdefault(life, Counter())[form, _AS_IS] += 1
    copies: dict[_Key, _Lives] = {}
    for (src, dst, form, _, _), life in zip(kept, lives[len(terms.stored) :], strict=True):
        a, b = place[src], place[dst]
        form += len(prices.stored_bytes)
        if a == b:
            stored.setdefault(a, {}).setdefault(life, Counter())[form, _DIAGONAL] += 1
            continue
        key, how = ((b, a), _TURNED) if a > b else ((a, b), _AS_IS)
        copies.setdefault(key, {}).setdefault(life, Counter())[form, how] += 1
    return stored, copies, horizon


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
