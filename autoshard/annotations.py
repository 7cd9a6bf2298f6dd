"""Layouts that models already carry: the axis names in Flax's metadata, as pins.

Flax boxes parameters that are made by `nn.with_partitioning` or `nn.with_logical_partitioning` with
a name for every dimension; NNX keeps the names beside the variable. Neither is asked unless the
user passes what `pins` makes of them as the option `intent`: names written for one mesh may be
wrong on the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from autoshard.intent import Pin, pin

Axes = str | Sequence[str] | None
# Where a boxed or NNX parameter keeps the names of its dimensions.
_NAMES = ("names", "sharding_names", "sharding", "out_sharding")


def pins(tree: Any, rules: Mapping[str, Axes] | None = None) -> tuple[Pin, ...]:
    """Pins of all parameters of a tree whose metadata names their dimensions.

    Args:
        tree: variables with boxes (`module.init(...)`, whole or as `jax.eval_shape` gives them), or
            an `nnx.State`.
        rules: the mesh axes of each logical name, as in `flax.linen.logical_axis_rules`; None where
            names are mesh axes themselves.

    Raises:
        ValueError: a name has no rule.
    """
    return tuple(
        pin("/".join(path), [_axes(name, rules, path) for name in names])
        for path, names in _named(tree, ())
    )


def _named(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    """(path, names of the dimensions) of what carries names."""
    names = _names(node)
    if names is not None:
        yield path, names
    elif isinstance(node, Mapping):
        for key, inner in node.items():
            yield from _named(inner, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for k, inner in enumerate(node):
            yield from _named(inner, (*path, str(k)))


def _names(node: Any) -> tuple[Any, ...] | None:
    metadata = node.get_metadata() if hasattr(node, "get_metadata") else None
    if not isinstance(metadata, Mapping):
        metadata = {key: getattr(node, key, None) for key in _NAMES if hasattr(node, "value")}
    found = next((metadata[key] for key in _NAMES if metadata.get(key) is not None), None)
    return tuple(found) if isinstance(found, Iterable) and not isinstance(found, str) else None


def _axes(name: Any, rules: Mapping[str, Axes] | None, path: tuple[str, ...]) -> Any:
    """The entry of a spec for one dimension."""
    if rules is None or not isinstance(name, str):
        return name
    if name not in rules:
        raise ValueError(
            f"{'/'.join(path)} names a dimension {name!r}, and the rules are for"
            f" {', '.join(map(repr, rules))}: add one, such as {{{name!r}: None}} for whole"
        )
    axes = rules[name]
    return axes if axes is None or isinstance(axes, str) else tuple(axes)
