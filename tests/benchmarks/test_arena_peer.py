"""The side environment of a peer, played by scripts: no compiler and no network is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoshard.machine import parse_machine
from benchmarks.arena import own, peer_xla
from benchmarks.arena.cases import CASES
from benchmarks.arena.compiled import Compiled, home, not_yet, remembered

_CASE = CASES[0]


def test_meshes_and_budgets_that_are_tried() -> None:
    found = list(peer_xla.attempts(parse_machine("v5e:4x4")))
    assert [(a.sizes, a.budget_gb) for a in found] == [
        ("16 x 1", 8), ("16 x 1", 12), ("4 x 4", 8), ("4 x 4", 12),
    ]  # fmt: skip
    assert all(sorted(a.order) == list(range(16)) for a in found)


def test_every_case_names_a_model_and_its_changes() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        entry = case.entry()
        assert all(getattr(entry.config, k) == v for k, v in case.changes.items())


def _played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Compiled:
    """An attempt in an "environment" whose program is a script of ours."""
    inside = tmp_path / "inside.py"
    inside.write_text(script)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peer_xla, "_INSIDE", inside)
    monkeypatch.setattr(peer_xla, "environment", lambda tell: Path(sys.executable))
    attempt = next(peer_xla.attempts(parse_machine(_CASE.on)))
    return peer_xla.contend(_CASE, attempt, timeout_s=30.0, tell=lambda what: None)


_ANSWERS = """
import json, os, sys
import autoshard
asked = json.loads(sys.argv[1])
assert os.path.isfile(os.path.join(os.path.dirname(autoshard.__file__), "models", "zoo.py"))
assert not os.path.isfile(os.path.join(os.path.dirname(autoshard.__file__), "api.py"))
with open(asked["file"], "w") as out:
    json.dump({"text": asked["model"], "argument_bytes": asked["budget_gb"]}, out)
"""


def test_the_peer_sees_the_zoo_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = _played(monkeypatch, tmp_path, _ANSWERS)
    assert (found.error, found.text, found.argument_bytes) == ("", _CASE.model, 8)


def test_a_peer_that_falls_over_is_told_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = _played(monkeypatch, tmp_path, "raise SystemExit('nothing works')")
    assert found.error == "ended with status 1: nothing works"


def test_what_was_compiled_is_not_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[int] = []

    def make() -> Compiled:
        made.append(1)
        return Compiled(text="HloModule m", argument_bytes=3, temporary_bytes=4, alias_bytes=1)

    first, second = remembered(("a", 1), make), remembered(("a", 1), make)
    assert first == second
    assert len(made) == 1
    assert first.peak_bytes == 6
    remembered(("a", 2), make)
    assert len(made) == 2
    assert home() == tmp_path / "autoshard"
    assert len(list((home() / "arena").iterdir())) == 2


def test_what_was_not_compiled_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert remembered(("a",), not_yet).error == "not compiled yet"
    assert remembered(("a",), lambda: Compiled(text="x")).text == "x"
    assert remembered(("a",), not_yet).text == "x"


def test_a_damaged_memory_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remembered(("a",), lambda: Compiled(text="x"))
    (file,) = (home() / "arena").iterdir()
    file.write_bytes(b"\x1f\x8b half of it")
    assert remembered(("a",), lambda: Compiled(text="y")).text == "y"


def test_what_fails_beside_fails_here() -> None:
    assert own.beside(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        own.beside(lambda: 1 // 0)
