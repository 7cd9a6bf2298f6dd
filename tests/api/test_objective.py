"""Plans for calls per second: copies of programs that only answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import autoshard, plan
from autoshard.models.zoo import entries
from autoshard.plan.diff import diff
from autoshard.plan.model import Plan
from autoshard.plan.serialize import from_json, to_json
from tests.api.steps import batch_of, create_state, train_step

W, X = jnp.arange(512.0).reshape(32, 16) / 100, jnp.ones((16, 32))


def answer(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x @ w)


@pytest.mark.parametrize("name", ["gpt-decode-tiny", "gpt-prefill-tiny", "gpt-decode-1.3b"])
@pytest.mark.parametrize("on", ["v5e:2x4", "8xh100"])
def test_never_fewer_calls_than_one_after_the_other(name: str, on: str) -> None:
    entry = entries()[name]
    step, args = entry.build(8)
    options: dict[str, Any] = {"on": on, "donate_argnums": entry.donate_argnums}
    one = plan(step, *args, **options)
    many = plan(step, *args, objective="throughput", **options)
    assert (one.objective, one.copies) == ("latency", 1)
    assert many.objective == "throughput"
    assert many.calls_per_s >= one.calls_per_s * (1 - 1e-9)
    assert many.mesh.n_devices * many.copies == many.machine.n_devices == 8
    assert many.prediction.peak_bytes <= many.machine.memory_limit_bytes
    assert any(row.name.endswith(("copy", "copies")) for row in many.certificate.rivals)


def test_a_train_step_is_one_copy_and_the_plan_says_why() -> None:
    shapes = jax.eval_shape(lambda: (create_state(jax.random.key(0)), batch_of()))
    made = plan(train_step, *shapes, on="v5e:2x4", donate_argnums=0, objective="throughput")
    assert made.copies == 1
    assert any("copies would have to share something" in note for note in made.notes)
    fixed = plan(answer, W, X, on="v5e:2x4", mesh={"data": 8}, objective="throughput")
    assert fixed.copies == 1
    assert any("the option mesh lays it out" in note for note in fixed.notes)


def test_copies_run_side_by_side() -> None:
    run = autoshard(answer, objective="throughput", devices="cpu:8")
    found = run(W, X)
    assert run.plan.copies > 1
    first = set(found.sharding.device_set)
    assert len(first) == run.plan.mesh.n_devices
    np.testing.assert_allclose(found, answer(W, X), rtol=1e-5)
    used = [first]
    for r in range(1, run.plan.copies):
        again = run.copy(r)(W, X)
        used.append(set(again.sharding.device_set))
        np.testing.assert_allclose(again, found, rtol=1e-6)
    assert len(set.union(*used)) == sum(map(len, used)) == 8
    with pytest.raises(IndexError, match=f"copies 0 to {run.plan.copies - 1}"):
        run.copy(run.plan.copies)


def test_init_places_what_the_first_copy_wants() -> None:
    run = autoshard(answer, objective="throughput", devices="cpu:8")
    run.plan_for(W, X)
    made = run.init(lambda: jnp.ones((32, 16)))
    assert made.sharding.device_set <= set(run(W, X).sharding.device_set)


def test_files_and_differences_say_it(tmp_path: Path) -> None:
    many = plan(answer, W, X, on="cpu:8", objective="throughput", cache=tmp_path)
    assert from_json(to_json(many)) == many
    again = plan(answer, W, X, on="cpu:8", objective="throughput", cache=tmp_path)
    assert (again.copies, again.mesh, again.constraints) == (
        many.copies,
        many.mesh,
        many.constraints,
    )
    one = plan(answer, W, X, on="cpu:8", cache=tmp_path)
    changes = {c.what: (c.before, c.after) for c in diff(one, many).identity}
    assert changes["objective"] == ("latency", "throughput")
    assert changes["copies"] == ("1", str(many.copies))
    assert "calls per second" in str(many)
    assert "calls per second" not in str(one)


def test_a_plan_for_throughput_is_used_as_it_is() -> None:
    many: Plan = plan(answer, W, X, on="cpu:8", objective="throughput")
    run = autoshard(answer, plan=many, devices="cpu:8")
    assert len(run(W, X).sharding.device_set) == many.mesh.n_devices


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match='objective=\'speed\': write "latency" or "throughput"'):
        autoshard(answer, objective="speed")
