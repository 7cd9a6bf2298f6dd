"""Runs in the side environment of `peer_xla.py`: XLA's own pass on one model of the zoo.

Takes one argument, a JSON object, and writes one to the file that this names. It imports JAX and
`autoshard.models`, which knows nothing of the rest of autoshard, and nothing else of the project.
"""

# mypy: ignore-errors
from __future__ import annotations

import dataclasses
import json
import sys
import time


def main(asked: dict) -> dict:
    import jax
    import numpy as np
    from jax._src.sharding_impls import AUTO
    from jax.experimental import topologies
    from jax.sharding import Mesh

    from autoshard.models.zoo import entries

    jax.config.update("jax_use_shardy_partitioner", False)  # AUTO is unknown to Shardy
    devices = topologies.get_topology_desc(asked["on"], "tpu").devices
    devices = sorted(devices, key=lambda device: tuple(device.coords))
    ordered = np.array([devices[k] for k in asked["order"]], dtype=object)
    mesh = Mesh(ordered.reshape(asked["mesh"]), ("a", "b")[: len(asked["mesh"])])
    entry = entries()[asked["model"]]
    if asked["changes"]:
        entry = dataclasses.replace(
            entry, config=dataclasses.replace(entry.config, **asked["changes"])
        )
    step, args = entry.build(asked["batch_size"])
    began_s = time.perf_counter()
    jitted = jax.jit(
        step,
        in_shardings=AUTO(mesh),
        out_shardings=AUTO(mesh),
        donate_argnums=entry.donate_argnums,
    )
    lowered = jitted.lower(*args)
    compiled = lowered.compile(
        compiler_options={"xla_tpu_auto_spmd_partitioning_memory_budget_gb": asked["budget_gb"]}
    )
    seconds = time.perf_counter() - began_s
    memory = compiled.memory_analysis()
    return {
        "text": compiled.as_text(),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "alias_bytes": int(memory.alias_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "seconds": seconds,
    }


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    try:
        answer = main(request)
    except Exception as failure:  # told to the arena, which goes on with the others
        line = next(iter(str(failure).splitlines()), "")
        answer = {"error": f"{type(failure).__name__}: {line[:200]}"}
    with open(request["file"], "w", encoding="utf-8") as out:
        json.dump(answer, out)
