"""What to say when nothing fits: how much would do, and what is in the way."""

from __future__ import annotations

import numpy as np

from autoshard.errors import InfeasibleError
from autoshard.plan import units
from autoshard.search.answer import Answer


def explain_infeasible(
    least: Answer, peak_bytes: float, limit_bytes: float, machine: str, strategy: str
) -> InfeasibleError:
    """The error for a limit that no layout meets.

    Args:
        least: the layout that needs least memory.
        peak_bytes: its peak per device.
        limit_bytes: what was allowed.
        machine: its name.
        strategy: "auto" or the strategy asked for.
    """
    used = least.numbers.problem.usage_bytes(least.choice)
    lines = [
        f"  {units.size(a.bytes_per_device):>10}  {a.what}{'  ' + a.source if a.source else ''}"
        for a in least.alive(int(np.argmax(used)), most=8)
    ]
    under = "" if strategy == "auto" else f" with strategy {strategy!r}"
    return InfeasibleError(
        f"no layout of {least.program.name!r} on {machine} fits in"
        f" {units.size(limit_bytes)} per device{under}.\n"
        f"The least that works is {units.size(peak_bytes)} per device"
        f" (mesh {least.numbers.mesh}). At its peak a device holds:\n"
        + "\n".join(lines)
        + "\nGive more memory (memory=...), more devices, a smaller batch, or rematerialise"
        " layers (jax.checkpoint).",
        least_bytes=peak_bytes,
    )
