"""Ctrl-C while the solver runs: it stops at once, and Python hears of it.

CP-SAT runs outside Python. With its own signal handling it would swallow the interrupt; without,
Python would only see it when the time is up. So the signal's arrival is watched for through a
wake-up descriptor, the solver is stopped, and Python's own handler then raises KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Ctrl-C, and what programs set to stop in time: a timer, a request to end.
_STOPPING = {bytes([s]) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}


@contextmanager
def stopped_by_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` from another thread as soon as a signal arrives.

    Outside the main thread Python takes no signals, and nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        if ours.recv(1) in _STOPPING:
            stop()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
        theirs.close()  # ends the watcher's wait
        watcher.join()
        ours.close()
