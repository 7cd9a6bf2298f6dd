"""Plans from the API: without devices, as files, from a cache, and obeyed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from autoshard import InfeasibleError, Plan, autoshard, plan
from autoshard.plan.errors import StalePlanError
from autoshard.plan.serialize import to_json
from tests.api.steps import batch_of, close, create_state, train_step


def abstract(size: int = 16, width: int = 16) -> Any:
    return jax.eval_shape(lambda: (create_state(jax.random.key(0), width), batch_of(size)))


def test_no_devices_are_needed() -> None:
    p = plan(train_step, *abstract(), on="v5p:4x4x4")
    assert p.machine.n_devices == 64
    assert p.machine.chip == "v5p"


def test_a_decorated_step_plans_with_its_own_options() -> None:
    p = plan(autoshard(train_step, strategy="zero3"), *abstract(), on="v5e:2x4")
    assert p.strategy == "zero3"


def test_a_plan_from_a_file_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    made = plan(train_step, *abstract(), strategy="zero3", mesh={"data": 8, "tensor": 1})
    made.save(file)
    step = autoshard(train_step, plan=file)
    state, batch = create_state(jax.random.key(0)), batch_of()
    assert close(step(state, batch), train_step(state, batch))
    assert step.plan == made


def test_a_stale_plan_is_refused_with_the_differing_parts(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan(train_step, *abstract(16)).save(file)
    step = autoshard(train_step, plan=file)
    with pytest.raises(StalePlanError, match=r"batch\['x'\].*16,8.*32,8"):
        step.plan_for(*abstract(32))

    def other_code(state: Any, batch: Any) -> Any:
        new, metrics = train_step(state, batch)
        return new, {"loss": metrics["loss"] * 2}

    other_code.__name__ = "train_step"
    with pytest.raises(StalePlanError, match="code"):
        autoshard(other_code, plan=file).plan_for(*abstract(16))
    with pytest.raises(StalePlanError, match="v5e"):
        plan(train_step, *abstract(16), on="v5e:2x4", plan=file)


PROGRAM = """
import sys
from autoshard import plan
from tests.api.test_plans import abstract
from tests.api.steps import train_step
import autoshard.planning as planning
def search(*a, **k): raise SystemExit("searched")
if sys.argv[2] == "again": planning.search = search
print(len(plan(train_step, *abstract(), cache=sys.argv[1]).inputs))
"""


def test_the_cache_serves_another_process_and_survives_damage(tmp_path: Path) -> None:
    def run(which: str) -> str:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), which]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # What takes longer than a moment says so, which is no part of the answer.
        said = (done.stdout + done.stderr).splitlines()
        return "\n".join(line for line in said if not line.startswith("autoshard: "))

    first = run("first")
    (file,) = tmp_path.glob("*.json")
    assert run("again") == first
    file.write_text("{ not a plan")
    assert "searched" in run("again")


def test_memory_below_what_data_parallelism_needs_splits_the_state() -> None:
    args = abstract(16, width=1 << 16)
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(args[0]))
    options: Any = {"mesh": {"data": 8, "tensor": 1}, "donate_argnums": 0}
    with pytest.raises(InfeasibleError):
        plan(train_step, *args, memory=state_bytes, strategy="data_parallel", **options)
    p = plan(train_step, *args, memory=state_bytes, **options)
    assert p.prediction.peak_bytes <= state_bytes
    assert p.prediction.state_bytes < state_bytes / 2


def test_the_least_memory_an_error_names_is_enough() -> None:
    args = abstract(16, width=1 << 14)
    with pytest.raises(InfeasibleError) as caught:
        plan(train_step, *args, memory="1kB", donate_argnums=0)
    least = caught.value.least_bytes
    step = autoshard(train_step, memory=least * 1.001, donate_argnums=0)
    state, batch = create_state(jax.random.key(0), 1 << 14), batch_of()
    expected = train_step(state, batch)
    assert close(step(state, batch), expected)
    assert step.plan.prediction.peak_bytes <= least * 1.001


def test_plans_hold_no_jax_objects() -> None:
    text = to_json(plan(train_step, *abstract()))
    code = (
        "import sys; from autoshard.plan import serialize as s;"
        "p = s.from_json(sys.stdin.read(), 'stdin'); str(p); p._repr_html_();"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)
    assert isinstance(plan(train_step, *abstract()), Plan)
