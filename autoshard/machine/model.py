"""What a machine is: a chip, how many, and what joins them. All numbers come from the catalogue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoshard.machine.dtypes import peak_for
from autoshard.machine.network import Network


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """What runs matmuls, as far as shapes matter to it.

    Attributes:
        tile: rows, columns and depth to multiples of which a product is padded.
        units: that tiles of the result are dealt to, wave by wave; 1 where one takes them all.
    """

    tile: tuple[int, int, int] = (1, 1, 1)
    units: int = 1


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much communication hides behind compute.

    Only what no activation waits for may hide: parameters gathered ahead of their use, gradients
    on their way to the optimizer. Sums and gathers of activations stand on the critical path.

    Attributes:
        share: of the time of a loop body's matmuls, how much may hide communication.
        slowdown: what hidden communication still costs, as a fraction of its own time: it takes
            memory bandwidth and, on GPUs, multiprocessors from the compute beside it.
        windowed: of a matmul's time, how much may hide the gather of its own activation or the
            scatter of its own sum, where the compiler cuts both in pieces ("collective matmul",
            Wang et al., ASPLOS 2023); XLA does so only when flags ask for it.
    """

    share: float = 0.0
    slowdown: float = 0.0
    windowed: float = 0.0


@dataclass(frozen=True, slots=True)
class Chip:
    """One accelerator as JAX sees it (one JAX device).

    Attributes:
        name: catalogue name, e.g. "v5e".
        platform: the JAX platform: "cpu", "gpu" or "tpu".
        memory_bytes: device memory.
        memory_bytes_per_s: its bandwidth.
        peak_flops_per_s: dense peak per rate key ("bf16", "f32", ...; see `dtypes.py`).
        matmul_efficiency: achieved / peak for large matmuls.
        memory_efficiency: achieved / peak memory bandwidth.
        op_overhead_s: time to start one kernel or fused loop.
        memory_margin: fraction of memory kept back by default for the runtime and fragmentation.
        matrix_unit: what shapes matmuls like.
        overlap: what communication hides behind compute.
    """

    name: str
    platform: str
    memory_bytes: int
    memory_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float] = field(hash=False)
    matmul_efficiency: float
    memory_efficiency: float
    op_overhead_s: float
    memory_margin: float
    matrix_unit: MatrixUnit = MatrixUnit()
    overlap: Overlap = Overlap()

    def flops_per_s(self, dtype: str) -> float:
        """Achievable matmul rate for operands of a JAX dtype name such as "bfloat16".

        The peak that the dtype has or borrows (`autoshard.machine.dtypes`) times
        `matmul_efficiency`.
        """
        return peak_for(dtype, self.peak_flops_per_s) * self.matmul_efficiency


@dataclass(frozen=True, slots=True)
class MeshAxis:
    """One dimension of the device mesh and the links it lies on.

    The first two numbers are *defined* by the time of an all-gather of `V` gathered bytes over
    the axis, with `n = size`:

        time_s = V * (n - 1) / n / bytes_per_s + (n - 1) * latency_s

    Attributes:
        name: "data" or "tensor".
        size: devices along it.
        bytes_per_s: what one device sends along this axis in a ring collective, one way in total
            over the links that a ring on this axis can use at once.
        latency_s: latency of a whole all-gather divided by its n - 1 steps; below one hop where
            the network gathers in both directions or over several dimensions at once.
        link: what it lies on, for people: "ICI x (ring of 16)", "NVLink", "shared memory".
        all_to_all_bytes_per_s: `r` such that an all-to-all of `s` bytes a device takes
            `s * (n - 1) / n / r`; None: `bytes_per_s`, true for a switch.
        neighbour_bytes_per_s: what one device sends to the next; None: `bytes_per_s`.
        hop_latency_s: from one device to the next; None: `latency_s`.
        other_all_reduces: ways to all-reduce beside a reduce-scatter and an all-gather, each as
            (seconds, seconds per byte of the array): in the switch, along a tree. The quickest of
            all for the size at hand is taken, as the libraries do.
        as_all_reduce: kinds of collectives that the compiler has no program for over these links
            and makes all-reduces of.
    """

    name: str
    size: int
    bytes_per_s: float
    latency_s: float
    link: str = ""
    all_to_all_bytes_per_s: float | None = None
    neighbour_bytes_per_s: float | None = None
    hop_latency_s: float | None = None
    other_all_reduces: tuple[tuple[float, float], ...] = ()
    as_all_reduce: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogicalMesh:
    """A way to lay named axes over a machine.

    Attributes:
        axes: major to minor; axes of size 1 are kept (they are in the plan), and cost nothing.
        device_order: for each mesh position (row-major), the index of the device in the
            machine's own order (for TPUs slice by slice, row-major over coordinates, then the
            cores of a chip).
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


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices of one kind and what joins them.

    Attributes:
        name: as a person writes it: "v5e:2x4", "2*v5p:4x4x4", "16x8xh100", "cpu:8".
        chip: one device.
        topology: devices per physical dimension: the slices if there are several, torus dimensions
            of a TPU slice, the devices of one chip if there are several; or (nodes, devices per
            node) where a network joins nodes, or (devices,). Devices are numbered row-major over
            it.
        network: the links.
        chips_per_host: None: not known.
    """

    name: str
    chip: Chip
    topology: tuple[int, ...]
    network: Network
    chips_per_host: int | None = None

    @property
    def n_devices(self) -> int:
        return math.prod(self.topology)

    @property
    def memory_bytes(self) -> int:
        """Memory of one device."""
        return self.chip.memory_bytes

    @property
    def default_memory_limit_bytes(self) -> int:
        """What a plan may use of one device unless told otherwise."""
        return int(self.memory_bytes * (1 - self.chip.memory_margin))
