"""Two numbers per chip family, fitted on a third of the rows and reported on the rest.

* `memory`: what kernels reach of the catalogue's memory rate. Frameworks without a compiler read
  and write memory more often than the fused loops that we price.
* `launch_s`: how long a Python process takes to launch a kernel.

Which rows are fitted on is decided by a hash of their group's name (of their id where they have no
group), so that no group is on both sides. Pipelines take no part, whatever their group.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.published.predict import Case, Efficiency, Unsupported, family_of, predict
from benchmarks.published.rows import Row

MEMORY = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
LAUNCH_S = tuple(n / 1e6 for n in range(0, 41, 2))
# Fewer runs than this say nothing about a family; the catalogue's numbers stay.
_LEAST_ROWS = 6
# Errors this much larger than the least are as good; of such, the shortest launches are taken, so
# that runs which never wait for one do not make one up.
_AS_GOOD = 1.01
# More than this tell nothing new; they are taken evenly from all.
_MOST_ROWS = 90


def is_fitted_on(row: Row) -> bool:
    """Whether a row belongs to the third that numbers are fitted on."""
    digest = hashlib.sha256((row.group or row.id).encode()).digest()
    return digest[0] % 3 == 0


def fit(cases: Sequence[tuple[Row, Case]]) -> dict[str, Any]:
    """The numbers of every family, with how many rows they were fitted on."""
    by_family: dict[str, list[tuple[Row, Case]]] = defaultdict(list)
    for row, case in cases:
        if is_fitted_on(row) and row.step_s is not None:
            by_family[family_of(row)].append((row, case))
    return {
        family: found
        for family, members in sorted(by_family.items())
        if len(members) >= _LEAST_ROWS
        and (found := _family(family, members[:: -(-len(members) // _MOST_ROWS)])) is not None
    }


def _family(family: str, members: Sequence[tuple[Row, Case]]) -> dict[str, float] | None:
    errors: dict[tuple[float, float], list[float]] = defaultdict(list)
    for n, (row, case) in enumerate(members):
        if n % 20 == 0:
            print(f"published: fitting {family}, {n} of {len(members)} runs", file=sys.stderr)
        for memory in MEMORY:
            try:
                found = predict(row, case, Efficiency(memory, launch_s=1.0))
            except Unsupported:
                break
            for launch_s in LAUNCH_S:
                step_s = replace(found, launched_s=found.launched_s * launch_s).step_s
                errors[memory, launch_s].append(abs(math.log(step_s / (row.step_s or 1.0))))
    if not errors:
        return None
    # The mean of the middle, so that neither a few outliers nor ties decide.
    means = {pair: statistics.fmean(_without_worst(found)) for pair, found in errors.items()}
    told_apart = min(means.values()) * _AS_GOOD
    close = [pair for pair in means if means[pair] <= told_apart]
    best = min(close, key=lambda pair: (pair[1], means[pair]))
    return {"memory": best[0], "launch_s": best[1], "rows": len(errors[best])}


def _without_worst(errors: Sequence[float]) -> list[float]:
    return sorted(errors)[: max(1, len(errors) * 9 // 10)]
