"""What a compiler made of one contender, and where that is kept between runs."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec


class Compiled(msgspec.Struct, frozen=True):
    """A compiled step.

    Attributes:
        text: of the scheduled module.
        argument_bytes, output_bytes, alias_bytes, temporary_bytes: of one device.
        seconds: wall clock of lowering and compiling.
        error: why there is none of this, or "".
    """

    text: str = ""
    argument_bytes: int = 0
    output_bytes: int = 0
    alias_bytes: int = 0
    temporary_bytes: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def peak_bytes(self) -> int:
        """As `autoshard.verify.witness.Witness.peak_bytes` has it."""
        kept = self.argument_bytes + self.output_bytes - self.alias_bytes
        return kept + self.temporary_bytes


def home() -> Path:
    """`$XDG_CACHE_HOME/autoshard`, or `~/.cache/autoshard`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoshard"


def not_yet() -> Compiled:
    """In place of compiling, where only what was compiled before is asked for."""
    return Compiled(error="not compiled yet")


def remembered(key: tuple[object, ...], make: Callable[[], Compiled]) -> Compiled:
    """What was compiled under a key, or is compiled now.

    Args:
        key: all that decides the result; its `repr` must say it.
        make: compiles. What it cannot is remembered too, if it says so by `error`.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:20]
    file = home() / "arena" / f"{digest}.json.gz"
    try:
        return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=Compiled)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError):
        found = make()
    if found == not_yet():
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        partial.write_bytes(gzip.compress(msgspec.json.encode(found), mtime=0))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return found
