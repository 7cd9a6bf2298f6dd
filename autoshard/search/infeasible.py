"""What to say when nothing fits: how much would do, and what is in the way."""

from __future__ import annotations

import numpy as np

from autoshard.errors import InfeasibleError
from autoshard.plan import units
from autoshard.search.answer import Answer
from autoshard.search.least import Least


def explain_infeasible(
    answer: Answer,
    least: Least,
    bound_bytes: float,
    limit_bytes: float,
    machine: str,
    strategy: str,
) -> InfeasibleError:
    """The error for a limit that no layout meets.

    Args:
        answer: the layout that needs least memory, over all meshes.
        least: how much it needs.
        bound_bytes: no layout on any mesh needs less.
        limit_bytes: what was allowed.
        machine: its name.
        strategy: "auto" or the strategy asked for.
    """
    used = answer.numbers.problem.usage_bytes(answer.choice)
    lines = [
        f"  {units.size(a.bytes_per_device):>10}  {a.what}{'  ' + a.source if a.source else ''}"
        for a in answer.alive(int(np.argmax(used)), most=8)
    ]
    # A search that ran out of time may have missed a smaller one: say what is known.
    proven = least.peak_bytes <= bound_bytes * 1.01
    proof = "" if proven else f" as far as was found; less than {units.size(bound_bytes)} never is"
    under = "" if strategy == "auto" else f" with strategy {strategy!r}"
    return InfeasibleError(
        f"no layout of {answer.program.name!r} on {machine} fits in"
        f" {units.size(limit_bytes)} per device{under}.\n"
        f"The least that works is {units.size(least.peak_bytes)} per device{proof}"
        f" (mesh {answer.numbers.mesh}). At its peak a device holds:\n"
        + "\n".join(lines)
        + "\nGive more memory (memory=...), more devices or a smaller batch, let layers be"
        ' rematerialised (remat="auto") or the batch be split (microbatch="auto").',
        least_bytes=least.peak_bytes,
    )
