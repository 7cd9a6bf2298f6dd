"""Pytree paths as people write them, and as steps that rebuild containers without JAX."""

from __future__ import annotations

from typing import Any

import jax

Steps = tuple[tuple[str, str], ...]


def steps(path: tuple[Any, ...]) -> Steps:
    """A JAX key path as (kind, key) pairs; kind is "index", "key", "attr" or "flat".

    Dictionary keys that are no strings are kept by `repr`.
    """
    out: list[tuple[str, str]] = []
    for entry in path:
        match entry:
            case jax.tree_util.SequenceKey(idx=idx):
                out.append(("index", str(idx)))
            case jax.tree_util.DictKey(key=key):
                out.append(("key", key if isinstance(key, str) else repr(key)))
            case jax.tree_util.GetAttrKey(name=name):
                out.append(("attr", name))
            case jax.tree_util.FlattenedIndexKey(key=key):
                out.append(("flat", str(key)))
            case _:
                out.append(("flat", str(entry)))
    return tuple(out)


def written(root: str, path: tuple[Any, ...]) -> str:
    """The path as an expression: "state['params']['kernel']"."""
    return root + jax.tree_util.keystr(path)
