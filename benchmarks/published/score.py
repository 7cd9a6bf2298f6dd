"""How good predictions are: ranks, regret and errors per group, and over all of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.published.predict import Predicted
from benchmarks.published.rows import Row
from benchmarks.published.stages import Stages

# Fewer layouts than this are no ranking.
_RANKED = 3


@dataclass(frozen=True)
class Scored:
    """A run beside its prediction.

    Attributes:
        row, predicted: they.
        fitted: whether its group took part in the fit.
        stages: of its pipeline, if it has one.
    """

    row: Row
    predicted: Predicted
    fitted: bool = False
    stages: Stages | None = None

    @property
    def peak_bytes(self) -> float | None:
        """Predicted; None where our schedule keeps other activations than the one that ran."""
        alike = self.stages is None or self.stages.keeps_as_much
        return self.predicted.peak_bytes if alike else None

    @property
    def step_error(self) -> float | None:
        """Predicted over measured, minus one."""
        if self.row.step_s is None:
            return None
        return self.predicted.step_s / self.row.step_s - 1

    @property
    def memory_error(self) -> float | None:
        if self.row.memory_bytes is None or self.peak_bytes is None:
            return None
        return self.peak_bytes / self.row.memory_bytes - 1


def groups(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """One record per published group."""
    found: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        found[one.row.group].append(one)
    return [_group(name, members) for name, members in sorted(found.items())]


def _group(name: str, members: Sequence[Scored]) -> dict[str, Any]:
    comparable: dict[Any, list[Scored]] = defaultdict(list)
    if name:
        for one in members:
            if one.row.step_s is not None:
                comparable[one.row.comparable].append(one)
    ranked = [same for same in comparable.values() if len(same) >= 2]
    regrets = [_regret(same) for same in ranked]
    spearmans = [(len(s), rho) for s in ranked if len(s) >= _RANKED for rho in (_spearman(s),)]
    known = [(n, rho) for n, rho in spearmans if rho is not None]
    weight = sum(n for n, _ in known)
    return {
        "group": name or None,
        "rows": len(members),
        "regret": max(regrets, default=None),
        "spearman": sum(n * rho for n, rho in known) / weight if weight else None,
        "median_error_step": median_error(members, lambda s: s.step_error),
        "median_error_memory": median_error(members, lambda s: s.memory_error),
    }


def _regret(same: Sequence[Scored]) -> float:
    """Measured time of the layout predicted fastest, over the best measured."""
    times = [(one.predicted.step_s, one.row.step_s or 0.0) for one in same]
    return min(times)[1] / min(measured for _, measured in times)


def _spearman(same: Sequence[Scored]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where all are equal."""
    a = _ranks([one.predicted.step_s for one in same])
    b = _ranks([one.row.step_s or 0.0 for one in same])
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> Any:
    array = np.asarray(values)
    return (array[:, None] > array).sum(1) + (array[:, None] == array).sum(1) / 2


def median_error(scored: Iterable[Scored], error: Callable[[Scored], float | None]) -> float | None:
    """Median absolute relative error; None where nothing was measured."""
    found = [abs(e) for one in scored if (e := error(one)) is not None]
    return statistics.median(found) if found else None


def summary(scored: Sequence[Scored]) -> dict[str, Any]:
    """Over all groups."""
    per_group = [g for g in groups(scored) if g["group"]]
    regrets = [g["regret"] for g in per_group if g["regret"] is not None]
    ranks = [g["spearman"] for g in per_group if g["spearman"] is not None]
    return {
        "rows": len(scored),
        "groups_with_regret": len(regrets),
        "median_regret": statistics.median(regrets) if regrets else None,
        "worst_regret": max(regrets, default=None),
        "groups_with_spearman": len(ranks),
        "median_spearman": statistics.median(ranks) if ranks else None,
        "median_error_step": median_error(scored, lambda s: s.step_error),
        "median_error_memory": median_error(scored, lambda s: s.memory_error),
    }
