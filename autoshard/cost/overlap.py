"""What communication costs beside compute.

Collectives that no activation waits for run while matmuls do: parameters are gathered one layer
ahead, gradients leave while the next layer's are made. XLA splits such collectives in a start and
a done and moves matmuls between the two (latency-hiding scheduler), within the body of one loop.
What remains is what the matmuls there are too short for, and a slowdown while both run:

    exposed = max(t - share * budget, 0) + slowdown * min(t, share * budget)

`budget` is the collective's part of the loop body's matmul time. "How to Scale Your Model" states
the condition for which nothing is exposed (https://jax-ml.github.io/scaling-book/training/);
`share` and `slowdown` are the machine's, with their sources in its catalogue file.

A matmul may also be cut in pieces that run while pieces of its operand arrive, or of its result
leave (Wang et al., "Overlap Communication with Dependent Computation via Decomposition", ASPLOS
2023). Where a machine does that, the gather or scatter next to a matmul hides behind that matmul in
the same way, with `windowed` for `share`.

Small collectives of one kind are sent as one (XLA's combiners), so each pays its part of a latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoshard.cost.compute import Floats
from autoshard.machine.model import Overlap


@dataclass(frozen=True)
class Beside:
    """What runs beside one reshard.

    Attributes:
        budget_s: time of the matmuls that it may hide behind, for one occurrence.
        windowed: whether these are the matmul that waits for it, and it must go piece by piece.
        latency_part: of a collective's latency, what falls to it.
    """

    budget_s: float = 0.0
    windowed: bool = False
    latency_part: float = 1.0


def added_s(overlap: Overlap, beside: Beside, seconds: Floats, windowed_s: Floats) -> Floats:
    """What a reshard adds to the step.

    Args:
        overlap: of the machine.
        beside: of the reshard.
        seconds: of its collectives by themselves.
        windowed_s: of those among them that can go piece by piece.
    """
    if not beside.windowed:
        return exposed_s(overlap.share * beside.budget_s, overlap.slowdown, seconds)
    pieces = exposed_s(overlap.windowed * beside.budget_s, overlap.slowdown, windowed_s)
    found: Floats = seconds - windowed_s + pieces
    return found


def exposed_s(room_s: float, slowdown: float, time_s: Floats) -> Floats:
    """What is left of a collective beside `room_s` seconds of compute."""
    hidden = np.minimum(time_s, room_s)
    found: Floats = time_s - (1.0 - slowdown) * hidden
    return found
