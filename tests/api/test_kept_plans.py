"""What the plan cache keeps apart, and what it does not keep."""

import warnings
from pathlib import Path
from typing import Any

import jax
import pytest

import autoshard.planning as planning
from autoshard import AutoshardWarning, autoshard, plan
from tests.api.steps import batch_of, create_state, train_step


def abstract() -> Any:
    return jax.eval_shape(lambda: (create_state(jax.random.key(0)), batch_of()))


def test_other_questions_have_other_files(tmp_path: Path) -> None:
    questions: list[dict[str, Any]] = [
        {},
        {"mesh": {"data": 8}},
        {"memory": "1GB"},
        {"strategy": "data_parallel"},
        {"time_limit_s": 3.0},
        {"on": "v5e:2x4"},
    ]
    for n, question in enumerate(questions, start=1):
        plan(train_step, *abstract(), cache=tmp_path, **question)
        assert len(list(tmp_path.glob("*.json"))) == n, question
    plan(train_step, *abstract(), cache=tmp_path, **questions[0])
    assert len(list(tmp_path.glob("*.json"))) == len(questions)


def test_what_ctrl_c_cut_short_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = planning.search

    def cut_short(*args: Any, **words: Any) -> Any:
        def tell(text: str) -> None:
            if "best so far" in text:
                raise KeyboardInterrupt

        return search(*args, **{**words, "tell": tell})

    monkeypatch.setattr(planning, "search", cut_short)
    plan(train_step, *abstract(), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.warns(AutoshardWarning, match="the plan was not kept in"):
        assert plan(train_step, *abstract(), cache=blocked / "cache").inputs


def test_init_follows_a_given_plan_before_the_first_call(tmp_path: Path) -> None:
    def create(key: jax.Array) -> Any:
        return create_state(key, width=512)

    shapes = jax.eval_shape(lambda: (create(jax.random.key(0)), batch_of()))
    made = plan(train_step, *shapes, strategy="zero3", mesh={"data": 8, "tensor": 1})
    made.save(tmp_path / "plan.json")
    step = autoshard(train_step, plan=tmp_path / "plan.json")
    state = step.init(create, jax.random.key(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(state, batch_of())
