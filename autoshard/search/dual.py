"""Lower bounds and good answers without a solver: messages between decisions, prices on memory.

Messages (`trws.py`) bound the costs. Memory limits are relaxed: a time with price p adds p x bytes
to every option alive then, and p x what is free is subtracted from the bound, which stays valid
for any p >= 0 (Lagrange).

Prices climb along the excess of memory over the limit, with Polyak's step towards a target above
the best bound (Polyak, "Minimization of unsmooth functionals", 1969). One answer's excess jumps
between options that are worth the same; so half of it is taken from a soft choice, in which options
count by how close they are to the least (a smoothed gradient, as in Nesterov, "Smooth minimization
of non-smooth functions", 2005). Only times that were once the fullest carry a price.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.arrays import Arrays, arrays
from autoshard.search.problem import Floats, Ints, Problem, Usage, gap
from autoshard.search.trws import Messages, kernels

# A target this much above the bound, at first; less whenever the bound rests this many steps.
_REACH, _SHORTER, _LEAST_REACH, _RESTS = 0.3, 0.66, 1e-3, 20
# Without any price the bound is done when it rests this long; with prices it may start to climb.
_DONE, _DONE_PRICED = 6, 40
# Sums of prices x bytes are wrong by less than this fraction.
_ROUNDING = 1e-13
# More times than this never carry a price.
_MOST_PRICED = 128


@dataclass(frozen=True)
class Bounds:
    """A bound, and how far options and pairs of options are from it.

    Attributes:
        bound_s: every answer costs at least this.
        unary: per option, seconds above the least, so that
        tables: per pair, `bound + sum of unary + sum of tables` is an answer's cost plus its
            priced memory less what is free, and no entry is negative.
        option_slack_s: every answer through an option costs at least `bound + slack`.
    """

    bound_s: float
    unary: tuple[Floats, ...]
    tables: tuple[Floats, ...]
    option_slack_s: tuple[Floats, ...]


class Dual:
    """Messages and prices of a problem.

    Attributes:
        arrays: the problem.
        messages: see `trws.py`.
        times: which carry a price, in the order they came up.
        price: seconds per byte at each of them.
    """

    def __init__(self, problem: Problem, flat: Arrays | None = None, sweeps: int = 200) -> None:
        self.arrays = arrays(problem) if flat is None else flat
        graph = self.arrays.graph
        if len(self.arrays.pair_room.owner):
            graph = graph._replace(table=graph.table.copy())
        self.graph = graph
        self.messages = Messages(graph, sweeps)
        self.times: list[int] = []
        self.price = np.zeros(0)
        self._columns: list[Floats] = []
        self.unary = self.arrays.unary.copy()

    def copy(self) -> Dual:
        """The same costs, messages and prices, to go on from separately."""
        twin = object.__new__(Dual)
        twin.arrays, twin.graph, twin.messages = self.arrays, self.graph, self.messages.copy()
        if self.graph.table is not self.arrays.graph.table:
            twin.graph = self.graph._replace(table=self.graph.table.copy())
            twin.messages.rebase(twin.graph)
        twin.times, twin._columns = list(self.times), list(self._columns)
        twin.price, twin.unary = self.price, self.unary
        return twin

    def sweep(self) -> float:
        """A pass forward and back; returns the bound."""
        bound = self.messages.sweep(self.unary) + self.arrays.base_cost_s
        if len(self.times):
            bound -= self._taken_s()
        return bound

    def _taken_s(self) -> float:
        """What all free bytes would cost at the prices, and a little for rounding."""
        each = self.price * self.arrays.free_bytes[self.times]
        return float(each.sum() + _ROUNDING * np.abs(each).sum())

    def decode(self) -> Ints:
        """An answer that suits the priced costs."""
        return self.messages.decode(self.unary)

    def watch(self, when: int) -> None:
        """Let a time carry a price from now on."""
        if when not in self.times and len(self.times) < _MOST_PRICED:
            self.times.append(when)
            self.price = np.append(self.price, 0.0)
            self._columns.append(self.arrays.at_time(when))

    def set_price(self, price: Floats) -> None:
        """Prices of the watched times, seconds per byte."""
        self.price = price
        self.unary = self.arrays.unary.copy()
        for p, column in zip(price, self._columns, strict=True):
            if p:
                self.unary += p * column
        if self.graph.table is not self.arrays.graph.table:
            self.graph.table[:] = self.arrays.priced_table(self.prices_per_time())

    def prices_per_time(self) -> Floats:
        """Seconds per byte at every time."""
        price = np.zeros(len(self.arrays.free_bytes))
        price[self.times] = self.price
        return price

    def soft_used_bytes(self, temperature_s: float) -> Floats:
        """Bytes in use when each option counts by exp(-distance from its variable's least)."""
        at = self.graph.option_at
        count = np.diff(at)
        total = self.messages.totals(self.unary)
        total -= np.repeat(np.minimum.reduceat(total, at[:-1]), count)
        share = np.exp(total / -temperature_s)
        share /= np.repeat(np.add.reduceat(share, at[:-1]), count)
        return self.arrays.shared_bytes(share)

    def slack(self) -> Bounds:
        """Costs moved so that none is negative, and what is left to move is the bound."""
        graph, messages = self.graph, self.messages.messages
        at, count = graph.option_at, np.diff(graph.option_at)
        total = self.messages.totals(self.unary)
        bound = self.arrays.base_cost_s - (self._taken_s() if self.times else 0.0)
        unary = [total[at[i] : at[i + 1]] for i in range(len(count))]
        for i, own in enumerate(unary):
            least = float(own.min())
            bound += least
            unary[i] = own - least
        # After a pass back each variable owes its earlier neighbours their share of its own.
        back = [own * graph.weight[i] for i, own in enumerate(unary)]
        tables = []
        for k, (a, b) in enumerate(zip(graph.a.tolist(), graph.b.tolist(), strict=True)):
            table = graph.table[graph.table_at[k] : graph.table_at[k + 1]]
            to_a = messages[graph.message_at[k, 0] : graph.message_at[k, 0] + count[a]]
            to_b = messages[graph.message_at[k, 1] : graph.message_at[k, 1] + count[b]]
            table = table.reshape(count[a], count[b]) - to_a[:, None] - to_b[None, :]
            later = max(a, b)
            table = table + (back[later][:, None] if later == a else back[later][None, :])
            unary[later] = unary[later] - back[later]
            least = float(table.min())
            bound += least
            tables.append(table - least)
        for i, own in enumerate(unary):
            least = float(own.min())
            bound += least
            unary[i] = own - least
        slack = [own.copy() for own in unary]
        for a, b, table in zip(graph.a.tolist(), graph.b.tolist(), tables, strict=True):
            slack[a] += table.min(axis=1)
            slack[b] += table.min(axis=0)
        return Bounds(bound, tuple(unary), tuple(tables), tuple(slack))


def polish(
    problem: Problem, choice: Sequence[int], price: dict[int, float], rounds: int = 20
) -> tuple[int, ...]:
    """Change one variable at a time while that lowers cost plus priced memory."""
    now = list(choice)
    near = problem.near
    unary = [v.cost_s + _priced(v.usage, price) for v in problem.variables]
    tables = [p.cost_s + _priced(p.usage, price) for p in problem.pairs]
    work = set(range(len(now)))
    for _ in range(rounds):
        changed: set[int] = set()
        for i in sorted(work):
            total = np.array(unary[i], dtype=float)
            for k, j, first in near[i]:
                total = total + (tables[k][:, now[j]] if first else tables[k][now[j], :])
            best = int(total.argmin())
            if total[best] < total[now[i]] - 1e-15:
                now[i] = best
                changed.update(j for _, j, _ in near[i])
        if not changed:
            break
        work = changed
    return tuple(now)


def _priced(usage: Sequence[Usage], price: dict[int, float]) -> Floats | float:
    total: Floats | float = 0.0
    for u in usage:
        p = sum(v for when, v in price.items() if u.start <= when <= u.end)
        if p:
            total = total + p * u.size_bytes
    return total


@dataclass
class Best:
    """The best feasible answer so far and the best bound so far."""

    choice: tuple[int, ...] | None
    cost_s: float
    bound_s: float

    def offer(self, problem: Arrays, choice: Sequence[int] | Ints) -> bool:
        """Take an answer if it fits and is better."""
        array = np.asarray(choice, dtype=np.int64)
        cost = problem.cost_s(array)
        if cost >= self.cost_s or not problem.fits(problem.used_bytes(array)):
            return False
        self.choice, self.cost_s = tuple(array.tolist()), cost
        return True

    def gap(self) -> float:
        """See `problem.gap`; infinite as long as there is no answer."""
        return gap(self.cost_s, self.bound_s)


def ascend(
    problem: Problem,
    best: Best,
    *,
    deadline: float,
    tolerance: float,
    cutoff_s: float = float("inf"),
    max_sweeps: int = 200,
    least_sweeps: int = 0,
    flat: Arrays | None = None,
) -> Dual:
    """Sweep, read off answers, and price memory where they overflow, until the gap closes.

    Args:
        problem: the numbers.
        best: improved in place.
        deadline: `time.monotonic()` at which to stop.
        tolerance: relative gap at which to stop.
        cutoff_s: a bound at which nothing of interest is left.
        max_sweeps: bound on work, so that results do not depend on the machine's speed.
        least_sweeps: so many are made whatever the clock says.
        flat: the problem as arrays, if at hand.

    Returns:
        The dual at the best prices found.
    """
    dual = Dual(problem, flat, max_sweeps)
    numbers = dual.arrays
    large = kernels(dual.graph, max_sweeps) is not None
    top, center, kept = -np.inf, dual.price, dual.messages.messages.copy()
    reach, rests, rested = _REACH, 0, 0
    for sweep in range(max_sweeps):
        bound = dual.sweep()
        choice: Sequence[int] | Ints = dual.decode()
        if not large:
            price = dict(zip(dual.times, dual.price.tolist(), strict=True))
            choice = polish(problem, np.asarray(choice).tolist(), price)
        best.bound_s = max(best.bound_s, bound)
        best.offer(numbers, choice)
        rests = 0 if bound > top + 1e-4 * reach * abs(top) else rests + 1
        rested = 0 if bound > top + 1e-4 * abs(top) else rested + 1
        if bound > top:
            top, center = bound, dual.price
            kept[:] = dual.messages.messages
        if best.gap() <= tolerance or best.bound_s >= cutoff_s:
            break
        if sweep + 1 >= least_sweeps and time.monotonic() > deadline:
            break
        used = numbers.used_bytes(np.asarray(choice, dtype=np.int64))
        priced = bool(dual.times) or not numbers.fits(used)
        if rested >= (max(_DONE_PRICED, max_sweeps // 8) if priced else _DONE) and sweep >= 10:
            break
        if not priced:
            continue
        if rests >= _RESTS:
            rests, reach = 0, max(reach * _SHORTER, _LEAST_REACH)
            dual.set_price(_padded(center, dual.times))
            dual.messages.messages[:] = kept
            continue
        _climb(dual, used, max(top, bound), bound, reach)
    dual.set_price(_padded(center, dual.times))
    dual.messages.messages[:] = kept
    return dual


def _padded(price: Floats, times: Sequence[int]) -> Floats:
    return np.concatenate([price, np.zeros(len(times) - len(price))])


def _climb(dual: Dual, used: Floats, top: float, bound: float, reach: float) -> None:
    """One step of the prices; see the module's docstring."""
    height = max(abs(top), 1e-30)
    soft = dual.soft_used_bytes(height * reach / max(len(dual.graph.weight), 1))
    excess = 0.5 * (used + soft) - dual.arrays.free_bytes
    fullest = int(excess.argmax())
    if excess[fullest] > 0:
        dual.watch(fullest)
    over = excess[dual.times]
    idle = (dual.price <= 0) & (over < 0)
    over = np.where(idle | (np.abs(over) <= dual.arrays.hair_bytes), 0.0, over)
    target = top + height * reach
    step = (target - bound) / max(float(over @ over), 1e-30)
    dual.set_price(np.maximum(dual.price + step * over, 0.0))
