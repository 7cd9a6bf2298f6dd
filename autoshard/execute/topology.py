"""Devices of machines that are not here, to compile for."""

from __future__ import annotations

import os
from typing import Any

from autoshard.plan.model import MachineKey


def topology_devices(name: str, machine: MachineKey) -> list[Any]:
    """The devices JAX can compile for under a name such as "v5e:4x4".

    Raises:
        RuntimeError: this machine has no compiler for them.
    """
    # Without these libtpu looks for a cloud machine's metadata and waits for it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(name, platform="tpu")
    except Exception as error:
        raise RuntimeError(
            f"cannot compile for {name}: {error}\n"
            "Planning needs no devices (autoshard.plan(..., on=...)); compiling for a TPU needs"
            " the extra 'tpu' (pip install 'autoshard[tpu]')."
        ) from error
    devices = list(description.devices)
    if len(devices) != machine.n_devices:
        raise RuntimeError(
            f"{name} has {len(devices)} devices for the compiler and {machine.n_devices} for the"
            " catalogue"
        )
    return devices
