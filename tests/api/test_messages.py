"""Bad input: each error says what, where, the numbers, and what to change."""

import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

import autoshard.planning as planning
from autoshard import AutoshardWarning, StateMismatchError, UnknownPrimitiveError, autoshard, plan
from autoshard.errors import SearchInterrupted
from autoshard.machine import MachineError
from tests.api.steps import batch_of, close, create_state, train_step


def abstract(size: int = 16) -> Any:
    return jax.eval_shape(lambda: (create_state(jax.random.key(0)), batch_of(size)))


def refused(error: type[BaseException], *parts: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        plan(train_step, *abstract(), **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_wrong_device_count() -> None:
    refused(MachineError, "4", "8", mesh={"data": 4})


def test_unknown_machine_suggests_the_nearest() -> None:
    refused(MachineError, "v5z", "v5e", on="v5z:2x4")
    refused(MachineError, "v5e", "2x4x4", on="v5e:2x4x4")


def test_an_axis_the_strategy_does_not_know() -> None:
    refused(ValueError, "strategy='megatron'", "tensor", "x 8", strategy="megatron", mesh={"x": 8})


def test_an_unknown_strategy_lists_the_known() -> None:
    refused(ValueError, "strategy='magic'", "zero3", "megatron", strategy="magic")


def test_an_unknown_option_lists_the_known() -> None:
    with pytest.raises(TypeError, match=r"no option 'meshes'.*mesh, devices, memory"):
        autoshard(train_step, meshes="auto")


@pytest.mark.parametrize("size", ["14 apples", "-3GB", "0"])
def test_memory_that_is_no_size(size: str) -> None:
    refused(ValueError, "memory=", memory=size)


def test_a_mesh_that_is_none() -> None:
    refused(TypeError, "mesh=7", '{"data": 4, "tensor": 2}', mesh=7)


def test_an_unhashable_static_argument() -> None:
    step = autoshard(lambda x, sizes: x * sizes[0], static_argnames="sizes")
    with pytest.raises(TypeError, match=r"'sizes'.*is a list, which is not hashable.*tuple"):
        step(jnp.ones(8), sizes=[2])


def test_static_and_donated_names_must_exist() -> None:
    with pytest.raises(ValueError, match=r"donate_argnames names \['stat'\].*'state'"):
        autoshard(train_step, donate_argnames="stat")
    with pytest.raises(ValueError, match=r"static_argnums holds 5.*takes 2 positional"):
        autoshard(train_step, static_argnums=5)


def test_a_leaf_that_is_no_array_is_named() -> None:
    with pytest.raises(TypeError, match=r"x\['name'\] is a str.*static_argnames"):
        autoshard(lambda x: x["value"])({"value": jnp.ones(8), "name": "text"})


def grow(state: Any, batch: Any) -> Any:
    new, metrics = train_step(state, batch)
    new["params"]["bias"] = new["params"]["bias"].astype(jnp.bfloat16)
    return new, metrics


def test_state_that_does_not_come_back_as_it_went_in() -> None:
    text = r"state\['params'\]\['bias'\]: float32\[4\] goes in, bfloat16\[4\] comes out"
    with pytest.raises(StateMismatchError, match=text):
        autoshard(grow, donate_argnums=0).plan_for(*abstract())
    with pytest.warns(AutoshardWarning, match=text):
        autoshard(grow).plan_for(*abstract())


@pytest.mark.parametrize("options", [{}, {"strategy": "data_parallel", "mesh": {"data": 8}}])
def test_a_dimension_that_no_axis_divides_stays_whole_and_runs(options: Any) -> None:
    step = autoshard(train_step, **options)
    state, batch = create_state(jax.random.key(0)), batch_of(6)
    assert close(step(state, batch), train_step(state, batch))
    assert all(s.spec.dims[0] == () for s in step.plan.leaves("data"))


def test_a_batch_that_no_axis_divides_is_listed_with_the_numbers() -> None:
    p = plan(train_step, *abstract(6), strategy="data_parallel", mesh={"data": 8})
    notes = [note for note in p.notes if "whole on every device" in note]
    assert notes == [
        "batch['x'] (float32[6,8]) is whole on every device: its first dimension, 6, does not"
        " divide by data 8",
        "batch['y'] (float32[6,4]) is whole on every device: its first dimension, 6, does not"
        " divide by data 8",
    ]
    assert not plan(train_step, *abstract(16), strategy="data_parallel", mesh={"data": 8}).notes


def test_a_large_tensor_that_nothing_divides_is_listed_with_the_reason() -> None:
    def fn(table: Any, x: Any) -> Any:
        return jnp.tanh(table) @ x

    table = jax.ShapeDtypeStruct((1021, 1021), "float32")
    p = plan(fn, table, jax.ShapeDtypeStruct((1021, 8), "float32"), mesh={"data": 8}, memory="64MB")
    (leaf,) = (x for x in p.inputs if x.path == "table")
    assert "no dimension that may be split divides by 8" in leaf.note
    assert "table is replicated" in " ".join(str(p).split())


mystery_p = Primitive("mystery")
mystery_p.def_impl(lambda x: x * 2)
mystery_p.def_abstract_eval(lambda x: x)
_twice = mlir.lower_fun(lambda x: x * 2, multiple_results=False)
# Behind a function of its own, as custom calls are: what it lowers to only the compiler sees.
mlir.register_lowering(mystery_p, lambda ctx, x: _twice(ctx, x))


def mysterious(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.sum(mystery_p.bind(x @ w) ** 2)


def test_an_unknown_primitive_is_kept_whole_and_listed() -> None:
    x, w = jnp.ones((1024, 512)), jnp.ones((512, 512)) / 512
    step = autoshard(mysterious, mesh={"data": 8})
    assert close(step(x, w), mysterious(x, w))
    assert any("mystery" in note and "test_messages.py" in note for note in step.plan.notes)


def test_an_unknown_primitive_is_an_error_in_strict_mode() -> None:
    with pytest.raises(UnknownPrimitiveError, match=r"mystery at .*test_messages\.py:\d+"):
        autoshard(mysterious, strict=True).plan_for(jnp.ones((16, 8)), jnp.ones((8, 8)))


def test_ctrl_c_before_any_plan_is_a_clean_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoshard.search.search.build_problem", interrupted)
    with pytest.raises(SearchInterrupted, match="before any plan was found"):
        plan(train_step, *abstract())
    assert issubclass(SearchInterrupted, KeyboardInterrupt)


def test_ctrl_c_later_uses_the_best_plan_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    search = planning.search

    def search_and_interrupt(*args: Any, **kwargs: Any) -> Any:
        def telling(text: str) -> None:
            if "best so far" in text:
                raise KeyboardInterrupt

        return search(*args, **{**kwargs, "tell": telling})

    monkeypatch.setattr(planning, "search", search_and_interrupt)
    p = plan(train_step, *abstract())
    assert p.prediction.step_s > 0
    assert p.certificate.status == "feasible"
    assert p.certificate.lower_bound_s == 0.0


SOLVING = """
import signal
# Background jobs of a shell are started with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from autoshard.search.cpsat import close
from autoshard.search.problem import Pair, Problem, Variable
rng = np.random.default_rng(0)
n = 120
variables = tuple(Variable(rng.random(6)) for _ in range(n))
pairs = tuple(
    Pair(a, b, rng.random((6, 6))) for a in range(n) for b in range(a + 1, n) if rng.random() < 0.1
)
problem = Problem(variables, pairs, float("inf"), 1)
print("solving", flush=True)
try:
    close(problem, [range(6)] * n, hint=[0] * n, time_limit_s=100)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_reaches_a_running_solver_at_once() -> None:
    command = [sys.executable, "-c", SOLVING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "solving\n"
        time.sleep(3.0)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(timeout=30) == 0
    assert time.monotonic() - begun < 20


def test_running_on_a_description_says_what_to_do_instead() -> None:
    step = autoshard(train_step, devices="v5e:2x4")
    with pytest.raises(ValueError, match=r"a description; nothing can run on it.*plan_for"):
        step(create_state(jax.random.key(0)), batch_of())
