"""The second call and those after it: what is looked up, what is said, what is not retried."""

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard.api as api
from autoshard import AutoshardWarning, autoshard
from tests.api.steps import batch_of, close, create_state, train_step

MESH = {"data": 4, "tensor": 2}


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs that were planned."""
    seen: list[str] = []
    make_plan = api.make_plan

    def counted(variants: Any, *args: Any) -> Any:
        seen.append(variants.plain.program.name)
        return make_plan(variants, *args)

    monkeypatch.setattr(api, "make_plan", counted)
    return seen


@pytest.fixture
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("_no_warnings")
def test_passing_by_keyword_is_the_same_program(searches: list[str]) -> None:
    step = autoshard(train_step, mesh=MESH)
    state, batch = create_state(jax.random.key(0)), batch_of()
    expected = train_step(state, batch)
    assert close(step(state, batch), expected)
    assert close(step(state, batch=batch), expected)
    assert close(step(batch=batch, state=state), expected)
    assert searches == ["train_step"]


@pytest.mark.usefixtures("_no_warnings")
def test_a_python_number_that_comes_back_as_an_array_is_no_new_search(searches: list[str]) -> None:
    def count(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1, "x": state["x"] * 2}

    step, state = autoshard(count), {"n": 0, "x": jnp.ones(8)}
    for _ in range(3):
        state = step(state)
    assert int(state["n"]) == 3
    assert searches == ["count"]


@pytest.mark.usefixtures("_no_warnings")
def test_weakly_typed_state_is_one_program_from_the_first_step(searches: list[str]) -> None:
    traced = []

    def decay(state: dict[str, Any], x: jax.Array) -> dict[str, Any]:
        traced.append(1)
        mean = state["mean"] * 0.9 + jnp.sum(x)
        return {"mean": mean, "table": state["table"] + mean}

    step = autoshard(decay, donate_argnums=0)
    for _ in range(2):
        state = {"mean": 0.0, "table": jnp.full((8, 8), 1.0)}
        assert state["table"].weak_type
        for _ in range(3):
            state = step(state, jnp.ones(8))
    assert searches == ["decay"]
    assert len(traced) == 2, "once weakly typed, once as it comes back"
    programs = {id(e) for kind in step._entries.values() for e in kind.values()}
    assert len(programs) == 1
    assert close(state["mean"], jnp.float32(8 * (1 + 0.9 + 0.81)))


def test_a_python_number_is_weaker_than_an_array_as_in_jit() -> None:
    def scale(x: jax.Array, by: Any) -> jax.Array:
        return x * by

    step, x = autoshard(scale), jnp.ones(8, jnp.bfloat16)
    assert step(x, 2.0).dtype == jnp.bfloat16
    with pytest.warns(AutoshardWarning, match="by was float32.. from a Python number,"):
        assert step(x, jnp.float32(2.0)).dtype == jnp.float32
    assert step(x, 2.0).dtype == jnp.bfloat16


@pytest.mark.usefixtures("_no_warnings")
def test_equal_static_values_of_other_types_are_other_programs() -> None:
    def fn(x: jax.Array, by: Any) -> jax.Array:
        return x + by if by is True else x * by

    step, x = autoshard(fn, static_argnames="by"), jnp.arange(8)
    for by in (1, True, 1.0, 1):
        out = step(x, by)
        assert close(out, fn(x, by))
        assert out.dtype == fn(x, by).dtype


def test_partials_and_methods() -> None:
    def scale(by: float, x: jax.Array) -> jax.Array:
        return x * by

    step = autoshard(functools.partial(scale, 3.0))
    assert step.__name__ == "scale"
    assert close(step(jnp.ones(8)), jnp.full(8, 3.0))

    class Doubler:
        by = 2.0

        @autoshard(static_argnums=0)
        def run(self, x: jax.Array) -> jax.Array:
            return x * self.by

    assert close(Doubler().run(jnp.ones(8)), jnp.full(8, 2.0))
    assert Doubler.run.plan.mesh.n_devices == 8


def test_batches_placed_otherwise_are_moved_every_time_and_mentioned_once() -> None:
    step = autoshard(train_step, mesh={"data": 8}, strategy="data_parallel")
    state, expected = create_state(jax.random.key(0)), create_state(jax.random.key(0))
    state, _ = step(state, batch_of())
    expected, _ = train_step(expected, batch_of())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            batch = jax.device_put(batch_of(), jax.devices()[3])
            state, _ = step(state, batch)
            expected, _ = train_step(expected, batch_of())
    (only,) = said
    assert only.category is AutoshardWarning
    assert only.filename == __file__
    for part in ("moved batch['x'] and 1 more", "batch['x']: P('data', None)", "96 B per device"):
        assert part in str(only.message)
    assert close(state["params"], expected["params"])


def test_the_warning_about_a_new_shape_stands_at_the_users_line() -> None:
    step = autoshard(lambda x: x + 1)
    step(np.ones(8, np.float32))
    with pytest.warns(AutoshardWarning, match="planning again") as said:
        step(np.ones(16, np.float32))
    assert said[0].filename == __file__


def test_one_array_may_be_two_donated_leaves_of_the_first_call() -> None:
    def step(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: x + 1 for name, x in state.items()}

    shared = jax.device_put(jnp.ones(8), jax.devices()[1])
    with pytest.warns(AutoshardWarning, match="moved"):
        out = autoshard(step, donate_argnums=0)({"a": shared, "b": shared})
    assert close(out, {"a": jnp.full(8, 2.0), "b": jnp.full(8, 2.0)})


def test_an_error_while_running_is_not_run_into_twice() -> None:
    calls = []

    def host(x: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("from the host")
        return x

    def fn(state: jax.Array) -> jax.Array:
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), state.dtype), state.sum()) + state

    step = autoshard(fn, devices=jax.devices()[:1], donate_argnums=0)
    state = jax.block_until_ready(step(jnp.ones(8)))
    with pytest.raises(Exception, match="from the host"):
        jax.block_until_ready(step(state))
    assert len(calls) == 2


def test_what_jax_refuses_for_its_own_reasons_is_raised_as_it_is() -> None:
    step = autoshard(lambda x: x + 1)
    x = step(jnp.ones(8))
    tries = []

    def refuses(*args: Any) -> Any:
        tries.append(1)
        raise ValueError("for reasons of my own")

    entry = step._called
    assert entry is not None
    entry.run = dataclasses.replace(entry.run, jitted=refuses)
    with pytest.raises(ValueError, match="for reasons of my own"):
        step(x)
    assert tries == [1]


def test_compiling_happens_under_the_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[str] = ["before"]
    compiled_in: list[str] = []

    class Watched(api.Progress):
        def phase(self, name: str) -> None:
            phases.append(name)
            super().phase(name)

        def __exit__(self, *error: Any) -> None:
            phases.append("after")
            super().__exit__(*error)

    def heard(event: str, duration: float, **words: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled_in.append(phases[-1])

    monkeypatch.setattr(api, "Progress", Watched)
    args = (create_state(jax.random.key(0)), batch_of())
    jax.monitoring.register_event_duration_secs_listener(heard)
    autoshard(train_step, mesh=MESH)(*args)
    # Placing the state compiles nothing that is worth a line.
    assert phases == ["before", "tracing", "searching", "compiling", "after"]
    assert "compiling" in compiled_in
    assert "after" not in compiled_in
