"""Containers from paths: dicts, lists and tuples without a pytree definition at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Steps = tuple[tuple[str, str], ...]


def rebuild(paths: Sequence[Steps], leaves: Sequence[Any]) -> Any:
    """Nest `leaves` by their paths: "index" steps become tuples, all others dicts.

    Attributes of custom nodes become dict keys: pass `like=` where the exact node is needed.
    """
    if len(paths) == 1 and not paths[0]:
        return leaves[0]
    groups: dict[tuple[str, str], list[int]] = {}
    for k, path in enumerate(paths):
        groups.setdefault(path[0], []).append(k)
    built = {
        step: rebuild([paths[k][1:] for k in members], [leaves[k] for k in members])
        for step, members in groups.items()
    }
    if all(kind == "index" for kind, _ in built):
        size = 1 + max((int(key) for _, key in built), default=-1)
        return tuple(built.get(("index", str(i))) for i in range(size))
    return {key: value for (_, key), value in built.items()}
