"""JSON laid out for people and for `diff`: what fits on a line is on one line."""

from __future__ import annotations

import json
from typing import Any

_WIDTH = 100
_STEP = "  "


def dumps(value: Any) -> str:
    """JSON text, ending in a newline.

    Objects of objects are broken into lines; an object or list that fits on one line stays on one;
    longer lists of scalars are filled to the width.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
    """
    return _dump(value, "", 0) + "\n"


def _flat(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _dump(value: Any, indent: str, before: int) -> str:
    flat = _flat(value)
    nested = isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())
    if not isinstance(value, dict | list) or not value:
        return flat
    if not nested and len(indent) + before + len(flat) < _WIDTH:
        return flat
    deeper = indent + _STEP
    if isinstance(value, dict):
        keys = [f"{_flat(str(k))}: " for k in value]
        parts = [key + _dump(v, deeper, len(key)) for key, v in zip(keys, value.values())]  # noqa: B905
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    if any(isinstance(v, dict | list) for v in value):
        parts = [_dump(v, deeper, 0) for v in value]
        return "[\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}]"
    lines, line = [], ""
    for part in map(_flat, value):
        if line and len(deeper) + len(line) + len(part) + 3 > _WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "") + part + ","
    lines.append(line[:-1])
    return "[\n" + "\n".join(deeper + text for text in lines) + f"\n{indent}]"
