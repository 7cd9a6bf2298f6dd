"""Seconds that ops take on one device: a roofline with the shapes that matrix units like.

An op takes the longer of its arithmetic at the rate the chip reaches on large matmuls and its
memory traffic at the bandwidth the chip reaches (Williams, Waterman, Patterson: "Roofline",
CACM 52(4), 2009), and never less than it takes to start it: kernels are queued ahead, so that
starting one and running the one before happen at once. Elementwise chains are one loop for XLA:
they are charged for what they read from and write to memory, not per op.

A product of small or odd sides pays for whole tiles (`product_utilisation`): a TPU pads to its
128 x 128 or 256 x 256 systolic array ("How to Scale Your Model",
https://jax-ml.github.io/scaling-book/tpus/), a GPU computes tiles of the result on one
multiprocessor each, wave by wave (NVIDIA, "Matrix Multiplication Background User's Guide",
https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.machine.model import Chip, MatrixUnit

Floats = NDArray[np.float64]

# However badly a product suits the matrix unit, the vector unit does it at about this part of the
# rate: 1/33 on TPU v5p, 1/15 on H100 (How to Scale Your Model, chapters on TPUs and GPUs).
_VECTOR_RATE = 1 / 32
# Where there are fewer tiles than multiprocessors, libraries split the summed dimension, down to
# about this many tiles' depth a piece (split-K).
_LEAST_DEPTH = 16


@dataclass(frozen=True)
class Product:
    """Sides of a batched matrix product on one device, per layout; a convolution is one, too.

    Attributes:
        batch: independent products.
        rows, columns: of one result.
        depth: length of the sums.
    """

    batch: Floats
    rows: Floats
    columns: Floats
    depth: Floats


def product_utilisation(unit: MatrixUnit, product: Product) -> Floats:
    """The part of the work in whole tiles and whole waves that is asked for; 1/32 at least.

    Products are padded to `unit.tile`. The tiles of the results are dealt to `unit.units`
    multiprocessors; the last wave may leave some idle. Where there are too few tiles, sums are
    cut in pieces that count as tiles.
    """
    padded = [
        np.ceil(size / tile) * tile
        for size, tile in zip(
            (product.rows, product.columns, product.depth), unit.tile, strict=True
        )
    ]
    useful = product.rows * product.columns * product.depth / np.prod(padded, axis=0)
    if unit.units > 1:
        tiles = product.batch * padded[0] / unit.tile[0] * padded[1] / unit.tile[1]
        most = np.maximum(np.floor(product.depth / (unit.tile[2] * _LEAST_DEPTH)), 1)
        pieces = tiles * np.clip(np.floor(unit.units / tiles), 1, most)
        useful = useful * pieces / (np.ceil(pieces / unit.units) * unit.units)
    found: Floats = np.maximum(useful, _VECTOR_RATE)
    return found


def matmul_time_s(
    chip: Chip, flops: Floats, utilisation: Floats, traffic_bytes: Floats, dtype: str
) -> Floats:
    """Matmuls and convolutions whose operands have `dtype`; per shard."""
    arithmetic = flops / (chip.flops_per_s(dtype) * utilisation)
    return np.asarray(np.maximum(arithmetic, memory_time_s(chip, traffic_bytes)))


def memory_time_s(chip: Chip, traffic_bytes: Floats) -> Floats:
    """Ops and loops that only move bytes; per shard."""
    moving = traffic_bytes / (chip.memory_bytes_per_s * chip.memory_efficiency)
    return np.asarray(np.maximum(moving, chip.op_overhead_s))
