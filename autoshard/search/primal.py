"""Better answers for as long as there is time: dives, repair, trees, again.

Each worker goes its own way from the best prices known, with its own seed:

* dive (`dive.py`) over all variables, with prices shaken a little, or over a part of them with the
  rest as in the best answer;
* where that overflows, tree moves (`trees.py`) under raised prices until it fits, or dive again
  from the prices at which the last dive ended;
* tree moves under falling prices.

Workers are threads: the compiled loops run outside Python's lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autoshard.search.dive import dive
from autoshard.search.dual import Best, Dual
from autoshard.search.problem import Floats, Ints
from autoshard.search.trees import descend

# Prices are scaled by these in turn once an answer fits.
_FALLING = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
# A dive's raise per round, as parts of the bound, drawn from.
_RAISES = (0.001, 0.003, 0.01)


class Primal:
    """The loop over one problem, with what its workers share.

    Attributes:
        dual: prices and messages to start from; not changed.
        best: improved in place.
    """

    def __init__(
        self, dual: Dual, best: Best, seed: int, on_better: Callable[[float], None]
    ) -> None:
        self.dual, self.best, self.seed, self.on_better = dual, best, seed, on_better
        self.price = dual.prices_per_time()  # at which the best answer was found
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.deadline = 0.0
        self.runs = 0
        self.variables = np.flatnonzero(np.diff(dual.graph.option_at) > 1)

    def run(
        self, *, deadline: float, workers: int = 1, rounds: int = 1 << 30, patience: int = 1 << 30
    ) -> None:
        """Work until the deadline.

        Args:
            deadline: `time.monotonic()` at which to stop.
            workers: threads.
            rounds: at most so many dives per worker.
            patience: stop after so many dives of a worker in a row without a better answer.
        """
        self.deadline = deadline
        self.runs += 1
        self.stop.clear()
        if workers == 1:
            self._work(0, rounds, patience)
            return
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._work, k, rounds, patience) for k in range(workers)]
            try:
                for future in futures:
                    future.result()
            finally:
                self.stop.set()

    def _go_on(self) -> bool:
        return time.monotonic() < self.deadline and not self.stop.is_set()

    def _work(self, worker: int, rounds: int, patience: int) -> None:
        rng = np.random.default_rng((self.seed, worker, self.runs))
        price, since = self.dual.price, 0
        moves = max(8 * len(self.variables), 2000)
        for k in range(rounds):
            if not self._go_on() or since > patience:
                return
            dual = self.dual.copy()
            whole = self.best.choice is None or rng.random() < (1.0 if k == 0 else 0.1)
            if whole:
                shaken = rng.standard_normal(len(price)) * (0.05 if k else 0.0)
                dual.set_price(price * np.exp(shaken))
                free, start = None, None
            else:
                with self.lock:
                    start = np.array(self.best.choice, dtype=np.int64)
                free = self._part(rng)
            raise_s = float(rng.choice(_RAISES)) * max(abs(self.best.bound_s), 1e-12)
            found = dive(
                dual, raise_s=raise_s, free=free, start=start, share=0.05 if whole else 0.1
            )
            choice, fits = found.choice, self._fits(found.choice)
            if not fits:
                choice, fits = self._repair(choice, found.price, moves, rng)
            if not fits:
                price = self._raised(found.price) if whole else price
                since += 1
                continue
            price = self.dual.price
            scales = _FALLING if whole else [*rng.choice(_FALLING[1:], 1).tolist(), 0.0]
            choice, _ = descend(
                self.dual.arrays,
                choice,
                found.price,
                scales=scales,
                moves=moves if whole else moves // 4,
                seed=int(rng.integers(1 << 40)),
                go_on=self._go_on,
            )
            since = 0 if self._offer(choice, found.price) else since + 1

    def _fits(self, choice: Ints) -> bool:
        numbers = self.dual.arrays
        return numbers.fits(numbers.used_bytes(choice))

    def _offer(self, choice: Ints, price: Floats) -> bool:
        with self.lock:
            better = self.best.offer(self.dual.arrays, choice)
            if better:
                self.price = price
                self.on_better(self.best.cost_s)
        return better

    def _repair(
        self, choice: Ints, price: Floats, moves: int, rng: np.random.Generator
    ) -> tuple[Ints, bool]:
        """Tree moves with prices raised where memory overflows."""
        numbers, fits = self.dual.arrays, False
        height = max(abs(self.best.bound_s), 1e-12)
        for k in range(4):
            excess = np.maximum(numbers.used_bytes(choice) - numbers.free_bytes, 0.0)
            worst = float(excess.max())
            # Spread over the times that overflow: together the raise is worth a part of the bound.
            price = price + (0.01 * 4**k * height) * excess / max(float(excess @ excess), 1e-30)
            choice, fits = descend(
                numbers,
                choice,
                price,
                scales=(1.0,),
                moves=moves,
                seed=int(rng.integers(1 << 40)),
                go_on=self._go_on,
            )
            if fits or worst == 0.0:
                break
        return choice, fits

    def _raised(self, price: Floats) -> Floats:
        """Prices of the dual's watched times as a dive left them, for the next to start from."""
        return np.asarray(price[self.dual.times])

    def _part(self, rng: np.random.Generator) -> Ints:
        """Variables to decide anew: neighbours in the program's order, or in the graph."""
        count = max(int(len(self.variables) * rng.uniform(0.03, 0.4)), 2)
        if rng.random() < 0.5:
            begin = int(rng.integers(len(self.variables)))
            window = np.arange(begin, begin + count) % len(self.variables)
            return self.variables[window]
        graph = self.dual.graph
        found = {int(rng.choice(self.variables))}
        edge = list(found)
        while edge and len(found) < count:
            i = edge.pop(int(rng.integers(len(edge))))
            near = graph.near[graph.near_at[i] : graph.near_at[i + 1]]
            others = np.where(graph.a[near] == i, graph.b[near], graph.a[near])
            for j in rng.permutation(others)[:20].tolist():
                if j not in found:
                    found.add(j)
                    edge.append(j)
        return np.array(sorted(found), dtype=np.int64)
