"""Compilations remembered: a compiler takes seconds to minutes and says the same every time."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from autoshard.plan.model import Plan
from autoshard.verify.witness import Witness

# To be raised when a witness is read differently from the same text, or a plan is put into its
# program in another way.
_FORMAT = 3
_COMPILERS = ("autoshard", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt")


def directory() -> Path:
    """Where witnesses are kept: `$XDG_CACHE_HOME/autoshard`, or `~/.cache/autoshard`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "autoshard" / "compiled"


def plan_key(plan: Plan, donated: frozenset[int]) -> str:
    """Names all of a plan that a compiler sees: two plans of one key compile to the same.

    Args:
        plan: with its predictions, which do not count.
        donated: indices of donated dynamic arguments.
    """
    return _digest(
        plan.program,
        (plan.remat, plan.microbatches, plan.pipeline),
        (plan.machine.name, plan.copies),
        plan.mesh,
        tuple(leaf.spec for leaf in (*plan.inputs, *plan.outputs)),
        tuple((c.at, c.slot, c.specs, c.again, c.by_rows, c.sent_as) for c in plan.constraints),
        sorted(donated),
    )


def place(plan: Plan, donated: frozenset[int]) -> Path:
    """The file for what a plan compiles to: everything that decides the result is in its name."""
    compilers = tuple((name, _version(name)) for name in _COMPILERS)
    flags = os.environ.get("XLA_FLAGS", "")
    return directory() / f"{_digest(_FORMAT, plan_key(plan, donated), compilers, flags)}.json"


def load(file: Path) -> Witness | None:
    """What was stored; nothing when the file is missing or damaged."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Witness)
    except (OSError, msgspec.MsgspecError):
        return None


def store(file: Path, witness: Witness) -> None:
    """Keep a witness; a directory that cannot be written costs the next run time, nothing else."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(msgspec.json.encode(witness))
        partial.replace(file)
    except OSError:
        pass


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
