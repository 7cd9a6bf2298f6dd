"""What a machine is: a chip, how many, and what joins them. All numbers come from the catalogue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """One accelerator as JAX sees it (one JAX device).

    Attributes:
        name: catalogue name, e.g. "v5e".
        platform: the JAX platform: "cpu", "gpu" or "tpu".
        memory_bytes: device memory.
        memory_bytes_per_s: its bandwidth.
        peak_flops_per_s: dense peak per dtype ("bf16", "f32", ...).
        matmul_efficiency: achieved / peak for large matmuls.
        memory_efficiency: achieved / peak memory bandwidth.
        op_overhead_s: time to start one kernel or fused loop.
        memory_margin: fraction of memory kept back by default for the runtime and fragmentation.
    """

    name: str
    platform: str
    memory_bytes: int
    memory_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    matmul_efficiency: float
    memory_efficiency: float
    op_overhead_s: float
    memory_margin: float

    def flops_per_s(self, dtype: str) -> float:
        """Achievable matmul rate for operands of a JAX dtype name such as "bfloat16"."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class MeshAxis:
    """One dimension of the device mesh and the links it lies on.

    Attributes:
        name: "data" or "tensor".
        size: devices along it.
        bytes_per_s: what one device sends along this axis in a ring collective, one way in total
            over the links that a ring on this axis can use at once.
        latency_s: time of one hop.
        link: what it lies on, for people: "ICI x (ring of 8)", "NVLink", "shared memory".
    """

    name: str
    size: int
    bytes_per_s: float
    latency_s: float
    link: str = ""


@dataclass(frozen=True, slots=True)
class LogicalMesh:
    """A way to lay named axes over a machine.

    Attributes:
        axes: major to minor; axes of size 1 are kept (they are in the plan), and cost nothing.
        device_order: for each mesh position (row-major), the index of the device in the
            machine's own order (for TPUs row-major over coordinates).
    """

    axes: tuple[MeshAxis, ...]
    device_order: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return {axis.name: axis.size for axis in self.axes}

    @property
    def n_devices(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    def __str__(self) -> str:
        return " x ".join(f"{axis.name} {axis.size}" for axis in self.axes)
