"""Plans as JSON text and files.

The format is versioned (`schema`), described by `schema.json` beside this file, and meant to be
kept in a repository and reviewed: equal plans are equal text, and small changes small diffs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from autoshard.plan import pretty
from autoshard.plan.check import refuse_inconsistent
from autoshard.plan.errors import PlanError
from autoshard.plan.model import SCHEMA_VERSION, Plan
from autoshard.plan.wire import from_struct, struct_of, to_plain


def to_json(plan: Plan) -> str:
    """The plan as JSON text.

    Raises:
        PlanError: a number of the plan is not finite.
    """
    # First, although it is the dataclass's last field and has a default: a reader needs it first.
    tree = {"schema": plan.schema, **to_plain(plan)}
    try:
        return pretty.dumps(tree)
    except ValueError as error:
        raise PlanError(
            f"the plan of {plan.program.name} cannot be written as JSON: {error};"
            " a plan holds finite numbers, and None where a rival does not fit"
        ) from error


def from_json(text: str | bytes, where: str = "<text>") -> Plan:
    """Read what `to_json` wrote.

    Args:
        text: JSON.
        where: the file it comes from, for messages.

    Raises:
        PlanError: not JSON, no plan, another schema version, a missing, unknown or ill-typed key,
            or parts that contradict each other.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"{where}: not JSON ({error}); is it a file that Plan.save wrote?"
        ) from error
    _refuse_version(tree, where)
    try:
        plan: Plan = from_struct(Plan, msgspec.convert(tree, struct_of(Plan)))
    except msgspec.ValidationError as error:
        raise PlanError(
            f"{where}: key {_key(error)}: {_complaint(error)}; correct it, or plan again"
        ) from error
    except ValueError as error:
        raise PlanError(f"{where}: {error}; correct it, or plan again") from error
    refuse_inconsistent(plan, where)
    return plan


def save(plan: Plan, path: str | Path) -> None:
    """Write a plan; the file is replaced whole or not at all.

    Raises:
        PlanError: the file cannot be written, or the plan is not fit for JSON.
    """
    target = Path(path)
    text = to_json(plan)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise PlanError(f"{target}: cannot write the plan: {error.strerror}") from error


def load(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        PlanError: the file cannot be read, or `from_json` refuses its text.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot read the plan: {error.strerror}") from error
    return from_json(text, str(path))


def _refuse_version(tree: Any, where: str) -> None:
    """Before any other check: another version's keys would make misleading complaints."""
    if not isinstance(tree, dict) or "schema" not in tree:
        raise PlanError(
            f"{where}: key `schema` is missing, so this is no plan; expected the JSON object that"
            " Plan.save writes"
        )
    found = tree["schema"]
    if found == SCHEMA_VERSION and not isinstance(found, bool):
        return
    newer = isinstance(found, int) and found > SCHEMA_VERSION
    cure = "upgrade autoshard" if newer else "plan again with this version"
    raise PlanError(
        f"{where}: key `schema` is {json.dumps(found)}, and this autoshard reads schema"
        f" {SCHEMA_VERSION}: {cure}"
    )


def _complaint(error: msgspec.ValidationError) -> str:
    return str(error).partition(" - at `")[0]


def _key(error: msgspec.ValidationError) -> str:
    """The path msgspec appends: "$.mesh.axis_sizes[0]"."""
    path = str(error).partition(" - at `")[2].removesuffix("`")
    return f"`{path.removeprefix('$').removeprefix('.') or 'top level'}`"
