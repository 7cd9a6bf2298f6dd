"""A peer: google-parallax, which names axes of parameters and inputs by how often they meet.

It reads the forward pass and gives a spec for every parameter and every input, on a mesh of two
axes; it has no cost model and no memory limit. The optimizer's state is laid out as the parameters
are, and XLA's partitioner decides the rest. It is installed by the extra `peers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from autoshard.machine import Machine, mesh_from_sizes, parse_machine
from benchmarks.arena.cases import Case
from benchmarks.arena.compiled import Compiled, not_yet, remembered
from benchmarks.arena.own import compile_here, first_line

PACKAGE = "google-parallax"
NAME = "parallax"
_AXES = ("data", "model")


@dataclass(frozen=True)
class Attempt:
    """One mesh.

    Attributes:
        mesh: sizes of the data axis and of the model axis.
        order: per mesh position the chip, row-major over the topology.
    """

    mesh: tuple[int, int]
    order: tuple[int, ...]

    @property
    def sizes(self) -> str:
        return ", ".join(f"{name} {n}" for name, n in zip(_AXES, self.mesh, strict=True) if n > 1)


def attempts(machine: Machine) -> Iterator[Attempt]:
    """Meshes of n x 1, n/2 x 2 and n/4 x 4, laid on the links as our own plans would be."""
    n = machine.n_devices
    for model in (1, 2, 4):
        if n % model == 0:
            laid = mesh_from_sizes(machine, dict(zip(_AXES, (n // model, model), strict=True)))
            yield Attempt((n // model, model), laid.device_order)


def contend(
    case: Case, attempt: Attempt, tell: Callable[[str], None], compiles: bool = True
) -> Compiled:
    """Have it lay out a case.

    Args:
        case: what.
        attempt: on which mesh.
        tell: is told what is being done.
        compiles: False where only what was compiled before is asked for.
    """
    try:
        own = version(PACKAGE)
    except PackageNotFoundError:
        return Compiled(error=f"not installed: pip install {PACKAGE} (extra 'peers')")
    compilers = tuple((name, version(name)) for name in ("jax", "jaxlib", "libtpu"))
    key = (NAME, own, repr(case.entry().config), case.batch_size, case.on, attempt, compilers)

    def compiling() -> Compiled:
        tell("compiling")
        began_s = time.perf_counter()
        try:
            jitted, args = _sharded(case, attempt)
        except Exception as error:  # whatever it stumbles over is its answer
            return Compiled(error=first_line(error))
        return compile_here(lambda: jitted.lower(*args), began_s)

    return remembered(key, compiling if compiles else not_yet)


def _sharded(case: Case, attempt: Attempt) -> tuple[Any, tuple[Any, ...]]:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from parallax.sharding.auto_shard import get_shardings

    from autoshard.verify.devices import compiler_devices

    entry = case.entry()
    step, (state, batch) = entry.build(case.batch_size)
    devices = np.array(compiler_devices(parse_machine(case.on)), dtype=object)
    mesh = Mesh(devices[list(attempt.order)].reshape(attempt.mesh), _AXES)

    # It takes lists for specs: trees of leaves by number have none.
    leaves, tree = jax.tree.flatten(state["params"])
    inputs, input_tree = jax.tree.flatten(batch)

    def loss(params: Any, batch: Any) -> Any:
        values = tree.unflatten(params.values()), input_tree.unflatten(batch.values())
        found = entry.module.loss(*values, entry.config)
        return found[0] if isinstance(found, tuple) else found

    with jax.set_mesh(mesh):
        (of_params, of_inputs), _ = get_shardings(
            loss,
            {f"{k:04}": leaf for k, leaf in enumerate(leaves)},
            {f"{k:04}": leaf for k, leaf in enumerate(inputs)},
            data_axis_name=_AXES[0],
            model_axis_name=_AXES[1],
        )
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state["params"])]
    by_path = {
        tuple(map(str, path)): (spec, leaf.shape)
        for path, spec, leaf in zip(paths, of_params.values(), leaves, strict=True)
    }

    def of_state(path: Any, leaf: Any) -> NamedSharding:
        """As the parameter whose path this one ends in, if it has its shape."""
        names = tuple(map(str, path))
        ends = (by_path[names[k:]] for k in range(len(names)) if names[k:] in by_path)
        spec, shape = next(ends, (PartitionSpec(), leaf.shape))
        return NamedSharding(mesh, spec if shape == leaf.shape else PartitionSpec())

    states = jax.tree_util.tree_map_with_path(of_state, state)
    batches = input_tree.unflatten(NamedSharding(mesh, spec) for spec in of_inputs.values())
    jitted = jax.jit(
        step,
        in_shardings=(states, batches),
        out_shardings=(states, None),
        donate_argnums=entry.donate_argnums,
    )
    return jitted, (state, batch)
