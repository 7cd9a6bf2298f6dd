"""What XLA's partitioner warns of on stderr, caught while it compiles."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_WHOLE = re.compile(
    r"Involuntary full rematerialization.*?from sharding (\{.*?\}) to (\{.*?\}) efficiently"
    r".*?HLO operation %?(\S+) = (\S+?)\{.*?op_name=\"([^\"]*)\"",
)


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect the partitioner's warnings; everything else on stderr passes through at the end.

    XLA writes to the process's own stderr, under Python: the file descriptor is turned aside.
    """
    heard: list[str] = []
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield heard
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            aside.seek(0)
            for line in aside.read().decode(errors="replace").splitlines():
                found = reading(line)
                if found:
                    heard.append(found)
                elif "Involuntary" not in line:
                    print(line, file=sys.stderr)


def reading(line: str) -> str:
    """A warning as a sentence; "" for lines that are none of ours."""
    found = _WHOLE.search(line)
    if found is None:
        return ""
    source, wanted, _, array, op_name = found.groups()
    return f"{array} made whole on the way from {source} to {wanted} ({op_name})"
