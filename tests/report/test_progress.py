"""Progress is silent below a second, plain in files, and cleans up after itself."""

import io
import time

import pytest

from autoshard.report.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("AUTOSHARD_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def work(stream: io.StringIO, *phases_s: float, enabled: bool = True) -> str:
    clock = Clock()
    with Progress(enabled, stream, clock) as progress:
        for i, phase_s in enumerate(phases_s):
            progress.phase(f"phase{i}")
            clock.now_s += phase_s
            progress.update(f"mesh {i}: best 12.3 ms")
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_silent_below_a_second(stream):
    assert work(stream(), 0.3, 0.3, 0.3) == ""


def test_one_plain_line_per_long_phase():
    assert work(io.StringIO(), 0.4, 2.5, 0.9, 61) == (
        "autoshard: phase1 2.50 s; mesh 1: best 12.3 ms\n"
        "autoshard: phase3 61.0 s; mesh 3: best 12.3 ms\n"
    )


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_silenced(stream, monkeypatch):
    assert work(stream(), 5, enabled=False) == ""
    monkeypatch.setenv("AUTOSHARD_PROGRESS", "0")
    assert work(stream(), 5) == ""


def test_terminal_shows_after_a_second_in_total_and_cleans_up():
    text = work(Terminal(), 0.6, 0.6)
    assert "phase1 - mesh 1: best 12.3 ms" in text
    assert "phase0" not in text
    # The cursor is hidden while it runs, shown at the end, and the line is erased.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.rindex("\x1b[2K") > text.rindex("phase1")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_the_terminal_clean(error):
    stream, clock = Terminal(), Clock()
    progress = Progress(True, stream, clock)

    def interrupted() -> None:
        with progress:
            progress.phase("searching")
            clock.now_s += 5
            progress.update("x")
            raise error

    with pytest.raises(error):
        interrupted()
    text = stream.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    progress.update("after the end")
    assert stream.getvalue() == text


def test_a_phase_that_never_reports_is_shown(monkeypatch):
    monkeypatch.setattr("autoshard.report.progress._QUIET_S", 0.05)
    stream = Terminal()
    with Progress(True, stream) as progress:
        progress.phase("one long solve")
        deadline_s = time.monotonic() + 5
        while "one long solve" not in stream.getvalue() and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert "one long solve" in stream.getvalue()


def test_text_of_the_search_is_not_markup():
    stream, clock = Terminal(), Clock()
    with Progress(True, stream, clock) as progress:
        progress.phase("searching")
        clock.now_s += 2
        progress.update("f32[8,16] [bold]")
    assert "[bold]" in stream.getvalue()
