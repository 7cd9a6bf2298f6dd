"""Seconds that ops take on one device: a roofline.

An op takes the longer of its arithmetic at the rate the chip reaches on large matmuls and its
memory traffic at the bandwidth the chip reaches (Williams, Waterman, Patterson: "Roofline",
CACM 52(4), 2009). Elementwise chains are one loop for XLA: they are charged for what they read
from and write to memory, not per op.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoshard.machine.model import Chip

Floats = NDArray[np.float64]


def matmul_time_s(chip: Chip, flops: Floats, traffic_bytes: Floats, dtype: str) -> Floats:
    """Matmuls and convolutions whose operands have `dtype`; per shard."""
    arithmetic = flops / chip.flops_per_s(dtype)
    return np.asarray(
        np.maximum(arithmetic, memory_time_s(chip, traffic_bytes)) + chip.op_overhead_s
    )


def memory_time_s(chip: Chip, traffic_bytes: Floats) -> Floats:
    """Ops that only move bytes; per shard."""
    return np.asarray(traffic_bytes / (chip.memory_bytes_per_s * chip.memory_efficiency))
