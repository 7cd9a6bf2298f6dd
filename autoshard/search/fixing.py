"""What cannot be in a better answer: options and pairs whose least total exceeds the best known.

With costs moved so that none is negative (`dual.Bounds`), an answer through a cell (s, t) of a pair
costs at least

    bound + unary_a[s] + unary_b[t] + table[s, t] + least of row s (t) over a's (b's) other tables

and through an option at least its `option_slack_s` above the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.search.dual import Bounds
from autoshard.search.problem import Problem
from autoshard.search.reduce import Keep

# Relative rounding allowed for in sums of moved costs.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class InPlay:
    """What a better answer may consist of.

    Attributes:
        options: per variable, ascending.
        cells: per pair, which cells `[options of a, options of b]`, all options counted.
    """

    options: Keep
    cells: tuple[NDArray[np.bool_], ...]

    @property
    def possible(self) -> bool:
        """Whether every variable has an option left."""
        return all(self.options)

    def count(self) -> int:
        """Cells in play."""
        return int(sum(int(c.sum()) for c in self.cells))


def in_play(
    problem: Problem, bounds: Bounds, ceiling_s: float, keep: Sequence[int] | None
) -> InPlay:
    """Options and cells through which an answer may cost less than `ceiling_s`.

    Args:
        problem: the numbers.
        bounds: of this problem.
        ceiling_s: answers that cost as much are of no interest.
        keep: an answer to leave in play whatever it costs.
    """
    room = ceiling_s - bounds.bound_s
    room += _ROUNDING * max(abs(ceiling_s), abs(bounds.bound_s)) if np.isfinite(room) else 0.0
    may = [slack <= room for slack in bounds.option_slack_s]
    if keep is not None:
        for mine, s in zip(may, keep, strict=True):
            mine[s] = True
    cells = []
    for k, p in enumerate(problem.pairs):
        table = bounds.tables[k]
        a = bounds.option_slack_s[p.a] - table.min(axis=1)
        b = bounds.option_slack_s[p.b] - table.min(axis=0)
        cell = (table + a[:, None] + b[None, :] <= room) & may[p.a][:, None] & may[p.b][None, :]
        if keep is not None:
            cell[keep[p.a], keep[p.b]] = True
        cells.append(cell)
    # An option that some pair leaves no cell for is out.
    changed = True
    while changed:
        changed = False
        for p, cell in zip(problem.pairs, cells, strict=True):
            for i, axis in ((p.a, 1), (p.b, 0)):
                dead = may[i] & ~cell.any(axis=axis)
                if dead.any():
                    may[i] &= ~dead
                    changed = True
            cell &= may[p.a][:, None] & may[p.b][None, :]
    return InPlay([np.flatnonzero(m).tolist() for m in may], tuple(cells))
