"""Measures the devices at hand: matmuls, memory, collectives over each axis a mesh can have.

Every device works at once, as in a real step, so what they share (cores, power, links) is in the
numbers. The best of several runs counts: other work on the host only ever makes a run slower.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.execute.shardings import in_machine_order
from autoshard.machine import LogicalMesh, Machine, MeshAxis, legal_meshes, machine_for_devices
from autoshard.machine.calibration import (
    Calibration,
    CollectiveSample,
    MatmulSample,
    Measurements,
    fit,
    machine_toml,
    unlisted_gpu,
)
from autoshard.machine.catalogue import CatalogEntry
from autoshard.machine.devices import entry_of_devices, known_kinds
from autoshard.machine.parse import make_machine

_ITEM_BYTES = 4  # collectives are measured in float32


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        matmul_sizes: of square matmuls.
        dtypes: of their operands.
        copy_bytes: of the arrays copied, on each device.
        collective_bytes: of the larger side, on each device.
        repeats: runs of each case, of which the best counts.
    """

    matmul_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    copy_bytes: tuple[int, ...]
    collective_bytes: tuple[int, ...]
    repeats: int


# Simulated devices share one host's cores: what keeps an accelerator busy takes them minutes.
CPU = Effort((128, 256, 512), ("float32", "bfloat16"), (1 << 22, 1 << 24), (1 << 14, 1 << 20), 8)
QUICK = Effort((64, 256), ("float32",), (1 << 22,), (1 << 14, 1 << 20), 3)
ACCELERATOR = Effort(
    (1024, 2048, 4096, 8192),
    ("bfloat16", "float32"),
    (1 << 26, 1 << 28),
    (1 << 16, 1 << 20, 1 << 24, 1 << 28),
    10,
)


def calibrate(
    out: str | Path,
    *,
    name: str | None = None,
    devices: Sequence[Any] | None = None,
    effort: Effort | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Measure the devices and write a machine file.

    Args:
        out: the file, which `autoshard.machine.parse_machine` reads by its path.
        name: of the chip in it; None: as in the catalogue.
        devices: those to measure; None: all.
        effort: how much; None: by platform.
        tell: called with a line for each thing measured.

    Raises:
        MachineError: the catalogue does not know the devices, or nothing fits what was measured.
        OSError: the file cannot be written.
    """
    found = in_machine_order(jax.devices() if devices is None else list(devices))
    first = found[0]
    entry, machine = _known(found)
    effort = effort or (CPU if first.platform == "cpu" else ACCELERATOR)
    calibration = fit(measure(machine, found, effort, tell))
    Path(out).write_text(machine_toml(calibration, entry, name), encoding="utf-8")
    return calibration


def _known(devices: Sequence[Any]) -> tuple[CatalogEntry, Machine]:
    """What the catalogue says of them; of GPUs that it does not list, only how many there are."""
    first = devices[0]
    kind, n = first.device_kind, len(devices)
    if first.platform == "gpu" and kind not in known_kinds():
        entry = unlisted_gpu(kind, int(first.memory_stats()["bytes_limit"]))
        return entry, make_machine(entry, (n,))
    coords = [tuple(d.coords) for d in devices] if first.platform == "tpu" else None
    entry = entry_of_devices(first.platform, kind)
    return entry, machine_for_devices(first.platform, kind, n, coords)


def measure(
    machine: Machine,
    devices: Sequence[Any],
    effort: Effort,
    tell: Callable[[str], None] = lambda text: None,
) -> Measurements:
    """Time everything on the machine that these devices are, in its order."""
    everywhere = NamedSharding(Mesh(np.array(devices), ("all",)), PartitionSpec("all"))
    return Measurements(
        machine=machine,
        matmuls=tuple(_matmuls(everywhere, effort, tell)),
        copies=tuple(_copies(everywhere, effort, tell)),
        op_overhead_s=_overhead_s(everywhere, effort),
        collectives=tuple(_collectives(machine, devices, effort, tell)),
        date=datetime.date.today().isoformat(),
        by=f"jax {jax.__version__}",
    )


def _matmuls(
    everywhere: NamedSharding, effort: Effort, tell: Callable[[str], None]
) -> Iterator[MatmulSample]:
    product = jax.jit(lambda x: jnp.einsum("dij,djk->dik", x, x), out_shardings=everywhere)
    for dtype in effort.dtypes:
        for size in effort.matmul_sizes:
            x = _array((everywhere.mesh.size, size, size), everywhere, dtype)
            sample = MatmulSample(dtype, size, _best_s(product, x, effort.repeats))
            tell(f"matmul {dtype} {size}: {sample.flops_per_s / 1e9:.4g} GFLOP/s a device")
            yield sample


def _copies(
    everywhere: NamedSharding, effort: Effort, tell: Callable[[str], None]
) -> Iterator[tuple[float, float]]:
    copy = jax.jit(lambda x: x + 1, out_shardings=everywhere)
    for size in effort.copy_bytes:
        x = _array((everywhere.mesh.size, size // _ITEM_BYTES), everywhere)
        moved, seconds = 2.0 * size, _best_s(copy, x, effort.repeats)
        tell(f"copy {size / 2**20:.4g} MiB: {moved / seconds / 1e9:.4g} GB/s a device")
        yield moved, seconds


def _overhead_s(everywhere: NamedSharding, effort: Effort) -> float:
    """Of one small op: what a long chain of them takes more than a short one."""

    def chain(length: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for _ in range(length):
                x = jnp.einsum("dij,djk->dik", x, x)
            return x

        return jax.jit(run, out_shardings=everywhere)

    x = _array((everywhere.mesh.size, 8, 8), everywhere)
    short, long = 4, 36
    more_s = _best_s(chain(long), x, effort.repeats) - _best_s(chain(short), x, effort.repeats)
    return max(more_s / (long - short), 1e-8)


def _collectives(
    machine: Machine, devices: Sequence[Any], effort: Effort, tell: Callable[[str], None]
) -> Iterator[CollectiveSample]:
    for laid, axis in _distinct_axes(machine):
        grid = np.array(devices, dtype=object)[list(laid.device_order)]
        names = tuple(a.name for a in laid.axes)
        mesh = Mesh(grid.reshape(tuple(a.size for a in laid.axes)), names)
        sharding = NamedSharding(mesh, PartitionSpec(names))
        for size in effort.collective_bytes:
            # Divisible by the axis, whatever its size.
            items = max(size // _ITEM_BYTES // axis.size, 1) * axis.size
            # What a call costs without a collective is not the network's.
            small = _array((mesh.size,), sharding)
            idle_s = _best_s(_sharded(_nothing, axis, mesh, names), small, effort.repeats)
            for kind, (body, shrinks) in _BODIES.items():
                local = items // axis.size if shrinks else items
                x = _array((mesh.size * local,), sharding)
                spent_s = _best_s(_sharded(body, axis, mesh, names), x, effort.repeats)
                seconds = max(spent_s - idle_s, spent_s / 10)
                tell(f"{kind} over {axis.link}, {items * _ITEM_BYTES} bytes: {seconds:.3g} s")
                yield CollectiveSample(
                    kind, laid.sizes, axis.name, float(items * _ITEM_BYTES), seconds
                )


def _distinct_axes(machine: Machine) -> Iterator[tuple[LogicalMesh, MeshAxis]]:
    """One mesh for each kind of axis that the machine's meshes have."""
    seen: set[str] = set()
    for laid in legal_meshes(machine):
        for axis in laid.axes:
            if axis.size > 1 and axis.link not in seen:
                seen.add(axis.link)
                yield laid, axis


def _sharded(
    body: Callable[[Any, MeshAxis], Any], axis: MeshAxis, mesh: Mesh, names: tuple[str, ...]
) -> Callable[[Any], Any]:
    spec = PartitionSpec(names)

    def local(x: Any) -> Any:
        return body(x, axis)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped)


def _nothing(x: Any, axis: MeshAxis) -> Any:
    return x + 1


def _to_the_next(x: Any, axis: MeshAxis) -> Any:
    pairs = [(i, (i + 1) % axis.size) for i in range(axis.size)]
    return lax.ppermute(x, axis.name, pairs)


def _exchange(x: Any, axis: MeshAxis) -> Any:
    return lax.all_to_all(x, axis.name, 0, 0, tiled=True)


def _gather(x: Any, axis: MeshAxis) -> Any:
    return lax.all_gather(x, axis.name, tiled=True)


def _scatter(x: Any, axis: MeshAxis) -> Any:
    return lax.psum_scatter(x, axis.name, tiled=True)


# kind -> (what runs on each device, whether its operand is one part of the larger side)
_BODIES: dict[str, tuple[Callable[[Any, MeshAxis], Any], bool]] = {
    "all-gather": (_gather, True),
    "reduce-scatter": (_scatter, False),
    "all-reduce": (lambda x, axis: lax.psum(x, axis.name), False),
    "all-to-all": (_exchange, False),
    "permute": (_to_the_next, False),
}


def _array(shape: tuple[int, ...], sharding: NamedSharding, dtype: str = "float32") -> Any:
    return jax.jit(lambda: jnp.full(shape, 1e-3, dtype), out_shardings=sharding)()


def _best_s(run: Callable[[Any], Any], x: Any, repeats: int) -> float:
    """Of a call, once compiled and warm."""
    jax.block_until_ready(run(x))
    best = float("inf")
    for _ in range(repeats):
        began_s = time.perf_counter()
        jax.block_until_ready(run(x))
        best = min(best, time.perf_counter() - began_s)
    return best
