"""Devices to compile for that need not be here: TPUs, NVIDIA GPUs, and simulated CPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jax
from jax.experimental import topologies

from autoshard.errors import AutoshardError
from autoshard.machine import Machine


class NoCompilerError(AutoshardError):
    """This installation cannot compile for that machine; the message says what to install."""


def compiler_devices(machine: Machine) -> list[Any]:
    """The devices that a compiler offers for a machine.

    Raises:
        NoCompilerError: the compiler is not installed, or has no such machine.
    """
    platform = machine.chip.platform
    if platform not in _MAKERS:
        raise NoCompilerError(f"no compiler is known for {machine.name} (platform {platform!r})")
    devices = _MAKERS[platform](machine)
    if len(devices) != machine.n_devices:
        raise NoCompilerError(
            f"{machine.name} has {machine.n_devices} devices in the catalogue and {len(devices)}"
            " for the compiler"
        )
    return devices


def _tpu(machine: Machine) -> list[Any]:
    # Without these libtpu looks for a cloud machine's metadata and waits for it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # One process at a time may hold a TPU; a compiler holds none.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return _described(machine, "tpu", "install the extra 'tpu'", topology_name=machine.name)


def _gpu(machine: Machine) -> list[Any]:
    target = files("autoshard.verify") / "targets" / f"{machine.chip.name}.txtpb"
    if not target.is_file():
        raise NoCompilerError(
            f"XLA needs a description of {machine.chip.name} to compile for it, and there is none"
            f" in autoshard/verify/targets; see h100.txtpb there for what it holds"
        )
    nodes, per_node = machine.topology if len(machine.topology) > 1 else (1, machine.n_devices)
    return _described(
        machine,
        "cuda",
        f"pip install --no-deps jax-cuda12-plugin=={jax.__version__}"
        f" jax-cuda12-pjrt=={jax.__version__} (no CUDA and no GPU needed; extra 'gpu-aot'), and"
        " start Python with JAX_PLATFORMS=cpu, or the plugin looks for CUDA",
        topology_name="",
        topology=f"{nodes}x1x{per_node}",  # partitions x hosts x devices
        target_config=target.read_text(),
    )


def _cpu(machine: Machine) -> list[Any]:
    n = machine.n_devices
    try:
        jax.config.update("jax_num_cpu_devices", n)
    except RuntimeError:
        pass  # JAX runs already, with as many devices as it was started with
    found = jax.devices("cpu")
    if len(found) < n:
        raise NoCompilerError(
            f"{machine.name} needs {n} simulated devices and JAX was started with {len(found)}:"
            f" set XLA_FLAGS=--xla_force_host_platform_device_count={n} before it is"
        )
    return list(found[:n])


def _described(machine: Machine, platform: str, remedy: str, **words: str) -> list[Any]:
    try:
        return list(topologies.get_topology_desc(platform=platform, **words).devices)
    except Exception as error:  # whatever the plugin raises
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise NoCompilerError(
            f"cannot compile for {machine.name}: {first}\n"
            f"Planning needs no compiler; comparing with one does: {remedy}"
        ) from error


# The catalogue's platform -> how to get its devices.
_MAKERS: dict[str, Callable[[Machine], list[Any]]] = {"tpu": _tpu, "gpu": _gpu, "cpu": _cpu}
