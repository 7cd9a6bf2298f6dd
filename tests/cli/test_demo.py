"""The demo's parts, and the whole of it with `nnx.jit` in the compiler's place."""

import io
import os
import sys
from itertools import islice

import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from autoshard.cli import _demo
from autoshard.cli._demo import Options, Run
from autoshard.models import gpt_nnx


@pytest.fixture(autouse=True)
def _environment(monkeypatch, devices):
    """The demo sets its environment: undo it, and start JAX before it can have an effect."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, os.environ[name])


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def test_corpus_is_python_source_and_the_same_each_time():
    text = _demo.corpus(limit_bytes=200_000)
    assert len(text) == 200_000
    assert b"import" in text.tobytes()
    assert (text == _demo.corpus(limit_bytes=200_000)).all()


def test_missing_standard_library_is_said_with_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr(_demo.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(RuntimeError, match=f"found only 0 bytes.*{tmp_path}"):
        _demo.corpus()


def test_batches_repeat_and_targets_follow_inputs():
    text = np.arange(1000).astype(np.uint8)
    first, second = (list(islice(_demo.batches(text, 4, 16), 3)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a["inputs"] == b["inputs"]).all()
        assert (a["inputs"][:, 1:] == a["targets"][:, :-1]).all()
        assert a["inputs"].shape == a["targets"].shape == (4, 16)
    assert (first[0]["inputs"] != first[1]["inputs"]).any()


def test_another_number_of_devices_than_started_is_refused():
    with pytest.raises(RuntimeError, match=r"started with 8 device\(s\), the demo needs 3"):
        _demo.simulate_devices(3)


def test_sparkline_spans_its_range():
    assert _demo.sparkline([1.0, 2.0, 8.0]) == "▁▂█"
    assert _demo.sparkline([2.0, 2.0]) == "▁▁"


def test_compare_finds_the_worst_step_even_if_not_shown(console):
    one = Run(tuple(float(i) for i in range(1, 31)), 1.0, 2.0)
    losses = list(one.losses)
    losses[1] *= 1.25
    worst = _demo.compare(Run(tuple(losses), 3.0, 4.0), one, 8, console)
    assert worst == pytest.approx(0.25)
    printed = console.file.getvalue()
    assert "loss at step 30" in printed
    assert "other 29 steps" in printed


@pytest.mark.parametrize(("drift", "code"), [(0.0, 0), (1e-2, 1)])
def test_the_exit_code_says_whether_both_runs_agree(monkeypatch, console, drift, code):
    single = nnx.jit(gpt_nnx.train_step)

    def drifting(model, optimizer, batch):
        return {"loss": single(model, optimizer, batch)["loss"] * (1 + drift)}

    monkeypatch.setattr(_demo, "steps", lambda: (drifting, single))
    assert _demo.main(Options(steps=2, batch=4), console) == code
    printed = console.file.getvalue()
    assert ("MORE than 1e-03!" in printed) == bool(code)
    assert "step   2/2  loss" in printed


def test_a_missing_library_is_an_error_with_its_remedy(monkeypatch, console):
    monkeypatch.setitem(sys.modules, "optax", None)
    assert _demo.main(Options(), console) == 2
    assert "pip install 'autoshard[models]'" in console.file.getvalue()
