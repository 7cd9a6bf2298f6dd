"""The published JSON schema of plan files, `schema.json` beside this file.

`python -m autoshard.plan.schema` writes it anew after the dataclasses of `model.py` changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from autoshard.plan.model import SCHEMA_VERSION, Plan
from autoshard.plan.wire import struct_of

PATH = Path(__file__).with_name("schema.json")


def build() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a plan file."""
    schema = msgspec.json.schema(struct_of(Plan))
    plan = schema["$defs"]["Plan"]
    # Left out by default in the dataclass, always there in a file, and this version's alone.
    plan["properties"]["schema"] = {"const": SCHEMA_VERSION}
    plan["required"] = ["schema", *plan["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"autoshard plan, schema {SCHEMA_VERSION}",
        **schema,
    }


def text() -> str:
    """The contents `schema.json` should have."""
    return json.dumps(build(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
