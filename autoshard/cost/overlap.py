"""What communication costs beside compute.

Collectives that no activation waits for run while matmuls do: parameters are gathered one layer
ahead, gradients leave while the next layer's are made. XLA splits such collectives in a start and
a done and moves matmuls between the two (latency-hiding scheduler), within the body of one loop.
What remains is what the matmuls there are too short for, and a slowdown while both run:

    exposed = max(t - share * budget, 0) + slowdown * min(t, share * budget)

`budget` is the collective's part of the loop body's matmul time. "How to Scale Your Model" states
the condition for which nothing is exposed (https://jax-ml.github.io/scaling-book/training/);
`share` and `slowdown` are the machine's, with their sources in its catalogue file.
"""

from __future__ import annotations

import numpy as np

from autoshard.cost.compute import Floats
from autoshard.machine.model import Overlap


def exposed_s(overlap: Overlap, time_s: Floats, budget_s: float) -> Floats:
    """What a collective adds to the step.

    Args:
        overlap: of the machine.
        time_s: of the collective by itself.
        budget_s: time of the matmuls beside which it may run.

    Returns:
        Seconds, of the shape of `time_s`.
    """
    hidden = np.minimum(time_s, overlap.share * budget_s)
    found: Floats = time_s - (1.0 - overlap.slowdown) * hidden
    return found
