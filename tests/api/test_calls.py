"""Calling a decorated step: like `jax.jit`, plus what `jax.jit` does not do."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import autoshard.api as api
from autoshard import AutoshardWarning, autoshard
from tests.api.steps import batch_of, close, create_state, train_step

MESH = {"data": 4, "tensor": 2}


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often something was planned and traced."""
    counts = {"plan": 0, "trace": 0}

    def counted(name: str, fn: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return fn(*args, **kwargs)

        return run

    monkeypatch.setattr(api, "make_plan", counted("plan", api.make_plan))
    monkeypatch.setattr(api, "trace", counted("trace", api.trace))
    return counts


def test_bare_and_with_options_train_alike() -> None:
    state, batch = create_state(jax.random.key(0)), batch_of()
    expected = train_step(state, batch)
    assert close(autoshard(train_step)(state, batch), expected)
    assert close(autoshard(mesh=MESH, strict=True)(train_step)(state, batch), expected)


def test_it_keeps_the_functions_name_and_docs() -> None:
    def step(x: Any) -> Any:
        """Doubles."""
        return x * 2

    assert autoshard(step).__name__ == "step"
    assert autoshard(step).__doc__ == "Doubles."


def test_later_calls_plan_nothing(count: dict[str, int]) -> None:
    step = autoshard(train_step, mesh=MESH)
    state, batch = create_state(jax.random.key(0)), batch_of()
    for _ in range(4):
        state, _ = step(state, batch)
    assert count == {"plan": 1, "trace": 1}


def test_new_shapes_plan_again_and_say_why_and_old_ones_do_not(count: dict[str, int]) -> None:
    step = autoshard(lambda state, batch: train_step(state, batch), mesh=MESH)
    state = create_state(jax.random.key(0))
    step(state, batch_of(16))
    with pytest.warns(AutoshardWarning, match=r"planning again: batch\['x'\] was float32\[16,8\],"):
        step(state, batch_of(32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (16, 32, 16, 32):
            assert close(step(state, batch_of(size)), train_step(state, batch_of(size)))
    assert count["plan"] == 2


def test_keyword_arguments() -> None:
    step = autoshard(train_step, mesh=MESH)
    state, batch = create_state(jax.random.key(0)), batch_of()
    assert close(step(state, batch=batch), train_step(state, batch))
    assert close(step(batch=batch, state=state), train_step(state, batch))


class Pair(NamedTuple):
    a: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    inside: Any
    label: str = dataclasses.field(default="box", metadata={"static": True})


def test_any_pytree_none_leaves_scalars_and_keys() -> None:
    def fn(tree: Any, key: jax.Array, scale: float, flag: Any) -> Any:
        noise = jax.random.normal(key, (8,))
        assert flag is None
        return Box(Pair(tree["pair"].a * scale + noise, None), "out"), jax.random.split(key)

    tree = {"pair": Pair(np.arange(8.0, dtype=np.float32), None), "unused": [1, (2.5,)]}
    args = (tree, jax.random.key(3), 2.0, None)
    assert close(autoshard(fn)(*args), fn(*args))


def test_static_arguments() -> None:
    def fn(x: Any, power: int, *, mode: str) -> Any:
        return x**power if mode == "power" else x * power

    step = autoshard(fn, static_argnums=1, static_argnames="mode")
    x = jnp.arange(1.0, 9.0)
    for power, mode in ((2, "power"), (3, "power"), (3, "times"), (2, "power")):
        assert close(step(x, power, mode=mode), fn(x, power, mode=mode))


@pytest.mark.parametrize("donate", [{"donate_argnums": 0}, {"donate_argnames": "state"}])
def test_donated_buffers_are_gone(donate: Any) -> None:
    step = autoshard(train_step, mesh=MESH, **donate)
    state, batch = create_state(jax.random.key(0)), batch_of()
    state, _ = step(state, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_inputs_placed_otherwise_are_moved_and_it_is_said() -> None:
    step = autoshard(train_step, mesh={"data": 8}, memory="1MB", donate_argnums=0)
    state, batch = create_state(jax.random.key(0)), batch_of()
    expected = train_step(state, batch)
    elsewhere = jax.device_put(state, jax.devices()[3])
    with pytest.warns(AutoshardWarning, match=r"moved state\['.*to where the plan keeps them"):
        new, _ = step(elsewhere, batch)
    assert close(new["params"], expected[0]["params"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(new, batch)


def test_init_before_and_after_the_plan_never_holds_a_full_copy() -> None:
    def create(key: jax.Array) -> Any:
        return create_state(key, width=4096)

    step = autoshard(train_step, strategy="zero3", mesh={"data": 8, "tensor": 1})
    first = step.init(create, jax.random.key(0))
    for leaf in (first["params"]["up"], first["opt"][0].mu["up"]):
        assert leaf.addressable_shards[0].data.size == leaf.size // 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AutoshardWarning)
        step(first, batch_of())
    again = step.init(create, jax.random.key(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(again, batch_of())
    assert close(again, create(jax.random.key(0)))


def test_lower_and_compile_as_jit_does() -> None:
    step = autoshard(train_step, mesh=MESH)
    state, batch = create_state(jax.random.key(0)), batch_of()
    abstract = jax.eval_shape(lambda: (state, batch))
    compiled = step.lower(*abstract).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    placed = jax.tree.map(jax.device_put, (state, batch), compiled.input_shardings[0])
    assert close(compiled(*placed), train_step(state, batch))


def test_a_users_own_mesh_keeps_its_names_and_devices() -> None:
    devices = np.array(jax.devices()[::-1]).reshape(2, 4)
    mesh = Mesh(devices, ("rows", "columns"), axis_types=(AxisType.Explicit,) * 2)
    step = autoshard(train_step, mesh=mesh)
    state, batch = create_state(jax.random.key(0)), batch_of()
    assert close(step(state, batch), train_step(state, batch))
    assert step.plan.mesh.axis_names == ("rows", "columns")
    assert step.plan.mesh.device_order == (7, 6, 5, 4, 3, 2, 1, 0)


def test_a_list_of_devices_is_used_and_no_other() -> None:
    step = autoshard(train_step, devices=jax.devices()[2:6])
    _, metrics = step(create_state(jax.random.key(0)), batch_of())
    assert metrics["loss"].sharding.device_set == set(jax.devices()[2:6])


def test_inside_other_transformations_it_is_the_plain_function() -> None:
    def square(x: jax.Array) -> jax.Array:
        return jnp.sum(x**2)

    step = autoshard(square)
    x = jnp.arange(8.0)
    assert close(jax.grad(step)(x), 2 * x)
    assert close(jax.jit(step)(x), square(x))
    assert close(jax.vmap(step)(jnp.ones((2, 8))), jnp.full(2, 8.0))


def test_an_error_in_the_users_function_is_the_users_error() -> None:
    def broken(x: Any) -> Any:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        autoshard(broken)(jnp.ones(8))


def test_shardings_serve_plain_jit() -> None:
    state, batch = create_state(jax.random.key(0)), batch_of()
    step = autoshard(train_step, strategy="zero3", mesh={"data": 8, "tensor": 1})
    plan = step.plan_for(state, batch)
    shardings = plan.shardings(jax.devices(), like=(state, batch))
    out = jax.jit(train_step, in_shardings=shardings)(state, batch)
    assert close(out, train_step(state, batch))
    up = shardings[0]["params"]["up"]
    assert isinstance(up, NamedSharding)
    assert up.spec != PartitionSpec()
    rebuilt = plan.shardings(jax.devices())
    assert rebuilt[0]["params"]["up"] == up
