"""What was compiled, in a file: so that predictions can be looked at again without compilers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from autoshard.verify.witness import Witness
from benchmarks.compiled.cases import Case


class Record(msgspec.Struct, frozen=True):
    """What the compiler made of one plan.

    Attributes:
        case: its name, for people.
        plan: key of the plan (`autoshard.verify.cache.plan_key`).
        compiled: what the compiler said, in bytes of one device.
    """

    case: str
    plan: str
    compiled: Witness


class Records(msgspec.Struct, frozen=True):
    """A file of them.

    Attributes:
        command: that made it.
        compilers: package -> version.
        records: one per pair.
    """

    command: str
    compilers: dict[str, str]
    records: tuple[Record, ...]


def read(file: Path) -> dict[str, Witness]:
    """What was compiled, by the plan's key.

    Raises:
        OSError: no such file.
        msgspec.ValidationError: another kind of file.
    """
    found = msgspec.json.decode(file.read_bytes(), type=Records)
    return {record.plan: record.compiled for record in found.records}


def record(case: Case, plan: str, compiled: Witness) -> Record:
    return Record(case.name, plan, compiled)


def write(file: Path, command: str, compilers: dict[str, str], records: Iterable[Record]) -> None:
    """One record a line, so that a change is seen as one."""
    head = msgspec.json.encode(Records(command, compilers, ())).decode().removesuffix("[]}")
    lines = ",\n".join(msgspec.json.encode(r).decode() for r in records)
    file.write_text(f"{head}[\n{lines}\n]}}\n")
