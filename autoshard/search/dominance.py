"""Options that another option of the same variable beats whatever the others do.

Dead-end elimination with memory (Goldstein, "Efficient rotamer elimination applied to protein
side-chains", Biophysical Journal 66(5), 1994, has it without). Option a is dropped for option b if

    cost[a] - cost[b] + sum over neighbours j of min over x of (table[a, x] - table[b, x]) >= 0

and b uses no more bytes than a at any time, whatever the neighbours do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoshard.search.problem import Floats, Ints, Usage

# Cells looked at in one go: bounds memory, and keeps it in cache.
_CHUNK = 1 << 20
# Up to this many options looking at fewer samples costs less than it saves.
_FEW = 16


def dominated(
    cost: Floats,
    tables: Sequence[Floats],
    usage: Sequence[Usage],
    pair_bytes: Sequence[Floats],
) -> NDArray[np.bool_]:
    """Which options can be dropped together; of equals the first stays.

    Args:
        cost: seconds per option.
        tables: per neighbour, seconds `[options, the neighbour's options]`.
        usage: bytes per option.
        pair_bytes: `[options, a neighbour's options]`.
    """
    with np.errstate(invalid="ignore"):  # two infinities differ by nan, which is seen to below
        return _dominated(cost, tables, usage, pair_bytes)


def _dominated(
    cost: Floats, tables: Sequence[Floats], usage: Sequence[Usage], pair_bytes: Sequence[Floats]
) -> NDArray[np.bool_]:
    n = len(cost)
    worse, better = _candidates(cost, tables)
    if usage and len(worse):
        fits = _all(steps_bytes(usage).T, worse, better)
        worse, better = worse[fits], better[fits]
    for size in pair_bytes:
        if len(worse) == 0:
            break
        fits = _all(size, worse, better)
        worse, better = worse[fits], better[fits]
    worse, better = _exactly(cost, tables, worse, better)
    gone = np.zeros(n, dtype=bool)
    if not len(worse):
        return gone
    beats = np.zeros((n, n), dtype=bool)
    beats[worse, better] = True
    for a in np.flatnonzero(beats.any(axis=1)):
        who = np.flatnonzero(beats[a] & ~gone)
        gone[a] = bool((~beats[who, a] | (who < a)).any())
    return gone


def _candidates(cost: Floats, tables: Sequence[Floats]) -> tuple[Ints, Ints]:
    """Pairs (a, b) in which a costs no less than b in a few sample answers of the neighbours."""
    may = np.ones((len(cost), len(cost)), dtype=bool)
    for sample in (0.0, 1.0) if len(cost) < _FEW else (0.0, 0.3, 0.7, 1.0):
        total = cost.copy()
        for table in tables:
            total += table[:, int(sample * (table.shape[1] - 1))]
        # A finite sample proves b better; two infinities prove nothing.
        may &= ~(total[:, None] < total[None, :])
    np.fill_diagonal(may, False)
    a, b = np.nonzero(may)
    return a, b


def _all(size: Floats, a: Ints, b: Ints) -> NDArray[np.bool_]:
    """Where row a is nowhere below row b."""
    if len(a) * size.shape[1] <= _CHUNK:
        return np.asarray((size[a] >= size[b]).all(axis=1))
    step = max(_CHUNK // max(size.shape[1], 1), 1)
    parts = [
        (size[a[k : k + step]] >= size[b[k : k + step]]).all(axis=1) for k in range(0, len(a), step)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _exactly(cost: Floats, tables: Sequence[Floats], a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Those pairs for which the inequality of the module's docstring holds."""
    more = cost[a] - cost[b]
    # What the tables not yet looked at add at most: their difference at one option.
    rest = np.array(sum((t[:, 0] for t in tables), np.zeros(len(cost))))
    for table in tables:
        if len(a) == 0:
            return a, b
        step = max(_CHUNK // table.shape[1], 1)
        parts = [
            _difference(table[a[k : k + step]], table[b[k : k + step]])
            for k in range(0, len(a), step)
        ]
        more = more + (parts[0] if len(parts) == 1 else np.concatenate(parts))
        rest -= table[:, 0]
        if len(a) > _FEW * _FEW:
            stay = ~(more + rest[a] - rest[b] < -1e-9 * np.abs(more))
            a, b, more = a[stay], b[stay], more[stay]
    stay = more >= 0
    return a[stay], b[stay]


def _difference(first: Floats, second: Floats) -> Floats:
    # Where `first` is forbidden it is no better, whatever `second` costs: fmin passes over nan.
    return np.asarray(np.fmin.reduce(first - second, axis=1, initial=np.inf))


def steps_bytes(usage: Sequence[Usage]) -> Floats:
    """Bytes of one variable `[step, option]` at each step between changes of what is alive."""
    cuts = np.array(sorted({u.start for u in usage} | {u.end + 1 for u in usage}))
    delta = np.zeros((len(cuts), len(usage[0].size_bytes)))
    sizes = np.array([u.size_bytes for u in usage])
    np.add.at(delta, np.searchsorted(cuts, [u.start for u in usage]), sizes)
    np.subtract.at(delta, np.searchsorted(cuts, [u.end + 1 for u in usage]), sizes)
    return delta.cumsum(axis=0)
