"""What is being done while planning takes long, and nothing at all when it does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from autoshard.plan import units

_QUIET_S = 1.0
_VARIABLE = "AUTOSHARD_PROGRESS"


class Progress:
    """Tells on stderr what long work is at.

    On a terminal one line that changes, begun after a second and gone at the end; elsewhere one
    line for every phase that took longer than a second. `AUTOSHARD_PROGRESS=0` silences both.

        with Progress() as progress:
            progress.phase("tracing")
            progress.phase("searching")
            progress.update("mesh data 4 x tensor 2: best 12.3 ms, bound 11.9 ms")
    """

    def __init__(
        self,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is shown before the first phase.

        Args:
            enabled: False shows nothing, whatever happens.
            stream: where to write; stderr as it is when the work begins, if None.
            clock: seconds, for tests.
        """
        self._enabled = enabled and os.environ.get(_VARIABLE) != "0"
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._timer: threading.Timer | None = None
        self._phase = self._detail = ""
        self._began_s = self._phase_began_s = 0.0

    def __enter__(self) -> Self:
        self._stream = self._stream or sys.stderr
        self._began_s = self._phase_began_s = self._clock()
        if self._enabled and self._on_terminal:
            # A phase that never reports (one long solve) shall be seen too.
            self._timer = threading.Timer(_QUIET_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was, also after Ctrl-C."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._status is not None:
                self._status.stop()
            self._status = None
            self._end_phase()
            self._enabled = False  # a timer that fires just now finds nothing to show

    def phase(self, name: str) -> None:
        """A new part of the work begins."""
        with self._lock:
            self._end_phase()
            self._phase, self._detail = name, ""
            self._phase_began_s = self._clock()
        self._show()

    def update(self, detail: str) -> None:
        """The phase has come further."""
        with self._lock:
            self._detail = detail
        self._show()

    @property
    def _on_terminal(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def _show(self) -> None:
        with self._lock:
            if not (self._enabled and self._phase and self._on_terminal):
                return
            if self._status is None:
                if self._clock() - self._began_s < _QUIET_S:
                    return
                self._status = Status(self._line(), console=Console(file=self._stream))
                self._status.start()
            self._status.update(self._line())

    def _line(self) -> Text:
        text = f"autoshard: {self._phase}" + (f" - {self._detail}" if self._detail else "")
        return Text(text, no_wrap=True, overflow="ellipsis")

    def _end_phase(self) -> None:
        took_s = self._clock() - self._phase_began_s
        if not (self._enabled and self._phase and took_s > _QUIET_S) or self._on_terminal:
            return
        detail = f"; {self._detail}" if self._detail else ""
        print(
            f"autoshard: {self._phase} {units.time(took_s)}{detail}", file=self._stream, flush=True
        )
