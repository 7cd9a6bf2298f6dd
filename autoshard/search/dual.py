"""Lower bounds and good answers without a solver: reparametrisation with prices on memory.

The problem's costs are shifted between variables and pairs without changing any answer's total.
After a shift, sum of minima <= every answer's cost: a bound. Sweeping over the variables and
moving each pair's min-marginals to the variable and on to the later (earlier) pairs is sequential
tree-reweighted message passing (Kolmogorov, "Convergent Tree-Reweighted Message Passing", PAMI
28(10), 2006), written on the tables themselves; every step keeps the bound or raises it.

Memory limits are relaxed: a time with price p adds p x bytes to every option and p x limit is
subtracted from the bound, which stays valid for any p >= 0 (Lagrange).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.search.problem import Floats, Problem, Usage, gap


@dataclass(frozen=True)
class Bounds:
    """A bound, and how far each option is from it."""

    bound_s: float
    option_slack_s: tuple[
        Floats, ...
    ]  # cost of the best answer through an option is >= bound + slack


class Dual:
    """Shifted costs of a problem; the shifts only ever raise the bound."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.unary = [v.cost_s.astype(float).copy() for v in problem.variables]
        self.tables = [p.cost_s.astype(float).copy() for p in problem.pairs]
        self.near = problem.near
        self.price: dict[int, float] = {}

    def sweep(self) -> None:
        """One pass forward and one back."""
        n = len(self.unary)
        for order, forward in ((range(n), True), (range(n - 1, -1, -1), False)):
            for i in order:
                self._visit(i, forward)

    def _visit(self, i: int, forward: bool) -> None:
        theta = self.unary[i]
        onward: list[tuple[int, bool]] = []
        before = 0
        for k, j, first in self.near[i]:
            table = self.tables[k]
            if first:
                marginal = table.min(axis=1)
                table -= marginal[:, None]
            else:
                marginal = table.min(axis=0)
                table -= marginal[None, :]
            theta += marginal
            if (j > i) == forward:
                onward.append((k, first))
            else:
                before += 1
        if not onward:
            return
        share = theta / max(len(onward), before)
        for k, first in onward:
            self.tables[k] += share[:, None] if first else share[None, :]
        theta -= share * len(onward)

    def bound_s(self) -> float:
        total = self.problem.base_cost_s
        total += sum(float(u.min()) for u in self.unary)
        total += sum(float(t.min()) for t in self.tables)
        paid = sum(self.price.values())
        return total - (paid * self.problem.limit_bytes if paid else 0.0)

    def slack(self) -> Bounds:
        """The bound and each option's distance from it, after collecting all min-marginals."""
        rows: list[Floats] = []
        for i, theta in enumerate(self.unary):
            own = theta - theta.min()
            for k, _, first in self.near[i]:
                table = self.tables[k]
                own = own + (table.min(axis=1) if first else table.min(axis=0)) - table.min()
            rows.append(own)
        return Bounds(self.bound_s(), tuple(rows))

    def decode(self) -> tuple[int, ...]:
        """An answer: each variable in turn takes what suits those before it best."""
        choice = [0] * len(self.unary)
        for i, theta in enumerate(self.unary):
            total = theta.copy()
            for k, j, first in self.near[i]:
                table = self.tables[k]
                if j < i:
                    total += table[:, choice[j]] if first else table[choice[j], :]
                else:
                    total += table.min(axis=1) if first else table.min(axis=0)
            choice[i] = int(total.argmin())
        return tuple(choice)

    def raise_price(self, when: int, by: float) -> None:
        """Change the price of memory at a time (seconds per byte); the price stays >= 0."""
        old = self.price.get(when, 0.0)
        new = max(old + by, 0.0)
        by = new - old
        if by == 0.0:
            return
        self.price[when] = new
        for theta, v in zip(self.unary, self.problem.variables, strict=True):
            for u in v.usage:
                if u.start <= when <= u.end:
                    theta += by * u.size_bytes
        for table, p in zip(self.tables, self.problem.pairs, strict=True):
            for u in p.usage:
                if u.start <= when <= u.end:
                    table += by * u.size_bytes


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

    def offer(self, problem: Problem, choice: Sequence[int]) -> bool:
        """Take an answer if it fits and is better."""
        cost = problem.cost_s(choice)
        if cost >= self.cost_s or problem.peak_bytes(choice) > problem.limit_bytes * (1 + 1e-9):
            return False
        self.choice, self.cost_s = tuple(choice), cost
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
) -> Dual:
    """Sweep, read off answers, and price memory where they overflow, until the gap closes.

    Args:
        problem: the numbers.
        best: improved in place.
        deadline: `time.monotonic()` at which to stop.
        tolerance: relative gap at which to stop.
        cutoff_s: a bound at which nothing of interest is left.
        max_sweeps: bound on work, so that results do not depend on the machine's speed.
    """
    dual = Dual(problem)
    stale, last = 0, -np.inf
    step = 1.0
    for sweep in range(max_sweeps):
        dual.sweep()
        bound = dual.bound_s()
        best.bound_s = max(best.bound_s, bound)
        choice = polish(problem, dual.decode(), dual.price)
        best.offer(problem, choice)
        used = problem.usage_bytes(choice)
        over = used.max(initial=0.0) > problem.limit_bytes
        closed = best.gap() <= tolerance or best.bound_s >= cutoff_s
        if closed or time.monotonic() > deadline:
            break
        if over or dual.price:
            _reprice(dual, problem, used, best, bound, step)
            step = max(step * 0.97, 0.05)
        stale = stale + 1 if bound < last + 1e-4 * abs(last) else 0
        last = max(last, bound)
        if stale >= (25 if dual.price else 6) and sweep >= 10:
            break
    return dual


def _reprice(
    dual: Dual, problem: Problem, used: Floats, best: Best, bound: float, step: float
) -> None:
    """A subgradient step (Polyak's rule) on the prices of the worst time and of priced times."""
    peak = int(used.argmax())
    times = set(dual.price) | {peak}
    excess = {t: float(used[t]) - problem.limit_bytes for t in times}
    norm = sum(e * e for e in excess.values())
    target = best.cost_s if best.choice is not None else bound * 1.05
    length = step * max(target - bound, 1e-3 * abs(bound)) / max(norm, 1e-30)
    for t, e in excess.items():
        dual.raise_price(t, length * e)
