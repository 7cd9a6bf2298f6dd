"""Sequential tree-reweighted message passing: lower bounds, and hints where the minimum lies.

Kolmogorov, "Convergent Tree-Reweighted Message Passing for Energy Minimization", PAMI 28(10), 2006.
Every pair keeps a message to either end: seconds moved from the pair's table to the end's options,
which changes no answer's total. A pass visits the variables in order. With

    total_i = unary_i + messages to i          weight_i = 1 / max(neighbours before, after)
    message i -> j:  min over s of  weight_i (total_i[s] - min total_i) - message to i [s] + table

less its minimum, the sum of all minima taken off on the way back is a bound on every answer, and
it never falls from one pass to the next.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoshard.search.arrays import Graph
from autoshard.search.problem import Floats, Ints

# From this many cells in all passes on compiled loops are worth the time it takes to load them.
_WORTH_COMPILING = 3e7


def kernels(graph: Graph, sweeps: float) -> Any | None:
    """Compiled loops, where they are installed and there is much to do; otherwise None."""
    if len(graph.table) * sweeps < _WORTH_COMPILING or os.environ.get("AUTOSHARD_NO_NUMBA"):
        return None
    module = importlib.import_module("autoshard.search.kernels")
    return module if module.COMPILED else None


@dataclass(frozen=True)
class _Visit:
    """What a pass reads and writes at one variable."""

    own: slice
    incoming: list[slice]
    onward: tuple[list[tuple[int, Any, int, int]], list[tuple[int, Any, int, int]]]
    before: list[tuple[int, Any]]
    later: list[slice]


class Messages:
    """Messages of a graph, and passes over them.

    Attributes:
        graph: costs. Its table may be changed in place between passes.
        messages: see `arrays.Graph`.
        low, high: options in play per variable, `low <= option < high`.
    """

    def __init__(self, graph: Graph, sweeps: int) -> None:
        self.graph = graph
        self.low = np.zeros(len(graph.weight), dtype=np.int64)
        self.high = np.diff(graph.option_at)
        counts = self.high
        self.messages = np.zeros(int(counts[graph.a].sum() + counts[graph.b].sum()))
        self._kernels = kernels(graph, sweeps)
        self._visits = None if self._kernels else self._plan()

    def sweep(self, unary: Floats) -> float:
        """A pass forward and one back; returns the bound, without the base cost."""
        args = (self.graph, unary, self.messages, self.low, self.high)
        if self._kernels is not None:
            self._kernels.sweep(*args, True)
            return float(self._kernels.sweep(*args, False))
        self._pass(unary, forward=True)
        return self._pass(unary, forward=False)

    def decode(self, unary: Floats) -> Ints:
        """An answer: each variable in turn takes what suits those before it best."""
        choice = np.zeros(len(self.low), dtype=np.int64)
        if self._kernels is not None:
            self._kernels.decode(self.graph, unary, self.messages, self.low, self.high, choice)
            return choice
        assert self._visits is not None
        for i, visit in enumerate(self._visits):
            total = unary[visit.own].copy()
            for j, table in visit.before:
                total += table[:, choice[j]]
            for m in visit.later:
                total += self.messages[m]
            lo, hi = int(self.low[i]), int(self.high[i])
            choice[i] = lo + int(total[lo:hi].argmin())
        return choice

    def totals(self, unary: Floats) -> Floats:
        """Per option: its seconds and the messages to it."""
        graph, counts = self.graph, np.diff(self.graph.option_at)
        total = unary.copy()
        for side, variables in ((0, graph.a), (1, graph.b)):
            count = counts[variables]
            within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
            message = np.repeat(graph.message_at[:, side], count) + within
            option = np.repeat(graph.option_at[variables], count) + within
            total += np.bincount(option, self.messages[message], len(total))
        return total

    def certainty(self, unary: Floats) -> tuple[Ints, Floats]:
        """Per variable: the option of least total, and how far the next is; -1 if there is none."""
        n = len(self.low)
        option, margin = np.zeros(n, dtype=np.int64), np.empty(n)
        if self._kernels is not None:
            args = (self.graph, unary, self.messages, self.low, self.high)
            self._kernels.certainty(*args, option, margin)
            return option, margin
        total, at = self.totals(unary), self.graph.option_at
        for i in range(n):
            lo, hi = int(self.low[i]), int(self.high[i])
            mine = total[at[i] + lo : at[i] + hi]
            option[i] = lo + int(mine.argmin())
            two = np.partition(mine, 1)[:2] if hi - lo > 1 else (0.0, -1.0)
            margin[i] = two[1] - two[0]
        return option, margin

    def rebase(self, graph: Graph) -> None:
        """Go on with another table of the same shape."""
        self.graph = graph
        self._visits = None if self._kernels else self._plan()

    def copy(self) -> Messages:
        """The same messages, to go on from separately."""
        twin = object.__new__(Messages)
        twin.graph, twin._kernels = self.graph, self._kernels
        twin.messages = self.messages.copy()
        twin.low, twin.high = self.low.copy(), self.high.copy()
        twin._visits = self._visits
        return twin

    def _plan(self) -> list[_Visit]:
        graph, counts = self.graph, np.diff(self.graph.option_at)
        visits = []
        for i in range(len(counts)):
            own = slice(int(graph.option_at[i]), int(graph.option_at[i + 1]))
            visit = _Visit(own, [], ([], []), [], [])
            for k in graph.near[graph.near_at[i] : graph.near_at[i + 1]]:
                side = 0 if graph.a[k] == i else 1
                j = int(graph.b[k] if side == 0 else graph.a[k])
                shape = (int(counts[graph.a[k]]), int(counts[graph.b[k]]))
                table = graph.table[graph.table_at[k] : graph.table_at[k + 1]].reshape(shape)
                table = table if side == 0 else table.T
                mine = int(graph.message_at[k, side])
                theirs = int(graph.message_at[k, 1 - side])
                incoming = slice(mine, mine + int(counts[i]))
                visit.incoming.append(incoming)
                visit.onward[int(j > i)].append((j, table, mine, theirs))
                if j < i:
                    visit.before.append((j, table))
                else:
                    visit.later.append(incoming)
            visits.append(visit)
        return visits

    def _pass(self, unary: Floats, *, forward: bool) -> float:
        assert self._visits is not None
        messages, bound = self.messages, 0.0
        low, high, weight = self.low.tolist(), self.high.tolist(), self.graph.weight.tolist()
        order = range(len(low)) if forward else range(len(low) - 1, -1, -1)
        for i in order:
            visit = self._visits[i]
            total = unary[visit.own].copy()
            for m in visit.incoming:
                total += messages[m]
            lo, hi = low[i], high[i]
            total = total[lo:hi]
            least = float(total.min())
            bound += least
            total -= least
            total *= weight[i]
            for j, table, mine, theirs in visit.onward[int(forward)]:
                jlo, jhi = low[j], high[j]
                rest = total - messages[mine + lo : mine + hi]
                best = (rest[:, None] + table[lo:hi, jlo:jhi]).min(axis=0)
                lowest = float(best.min())
                bound += lowest
                np.subtract(best, lowest, out=messages[theirs + jlo : theirs + jhi])
        return bound
