"""`lower(...).compile()` beyond positional arrays, and for devices that are not here."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from autoshard import autoshard, plan
from tests.api.steps import batch_of, close, create_state, train_step


def abstract() -> Any:
    return jax.eval_shape(lambda: (create_state(jax.random.key(0)), batch_of()))


def test_compiled_with_keywords_is_called_with_keywords() -> None:
    state, batch = abstract()
    lowered = autoshard(train_step).lower(state, batch=batch)
    assert "sharding" in lowered.as_text()
    compiled = lowered.compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    args = create_state(jax.random.key(0)), batch_of()
    assert close(compiled(args[0], batch=args[1]), train_step(*args))


def test_compiled_with_modules_changes_them() -> None:
    def double(model: nnx.Linear, x: jax.Array) -> jax.Array:
        model.kernel[...] = model.kernel[...] * 2
        return model(x)

    model, x = nnx.Linear(8, 4, rngs=nnx.Rngs(0)), jnp.ones((8, 8))
    before = model.kernel[...]
    compiled = autoshard(double).lower(nnx.eval_shape(lambda: model), x).compile()
    assert close(model.kernel[...], before)
    out = compiled(model, x)
    assert close(model.kernel[...], 2 * before)
    assert close(out, model(x))


def test_a_description_of_simulated_devices_runs_on_them() -> None:
    step = autoshard(train_step, devices="cpu:8")
    args = create_state(jax.random.key(0)), batch_of()
    assert close(step(*args), train_step(*args))


def test_a_users_mesh_means_its_names_and_sizes_on_another_machine() -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "tensor"))
    p = plan(autoshard(train_step, mesh=mesh), *abstract(), on="v5e:2x4")
    assert p.machine.name == "v5e:2x4"
    assert p.mesh.sizes == {"data": 4, "tensor": 2}


def test_a_mesh_and_other_devices_contradict_each_other() -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    with pytest.raises(ValueError, match=r"devices= names 8 devices, mesh= holds 4"):
        plan(train_step, *abstract(), mesh=mesh, devices=jax.devices())


@pytest.mark.parametrize("machine", ["v5e:2x4", "v5e:4x4"])
def test_a_tpu_program_is_laid_over_the_chips_as_planned(machine: str) -> None:
    pytest.importorskip("libtpu")
    step = autoshard(train_step, devices=machine, donate_argnums=0)
    compiled = step.lower(*abstract()).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    mesh = jax.tree.leaves(compiled.input_shardings[0])[0].mesh
    # Machine order is row-major over coordinates; the plan's mesh is laid over the chips so.
    ordered = sorted(tuple(d.coords) for d in mesh.devices.flat)
    laid = [ordered[i] for i in step.plan.mesh.device_order]
    assert [tuple(d.coords) for d in mesh.devices.flat] == laid
    assert dict(mesh.shape) == step.plan.mesh.sizes
