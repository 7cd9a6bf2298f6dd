"""Code that users lay out themselves (`shard_map`): one op, laid out as its author says.

A dimension that the author splits is so many shards of a size that stays whole, so its factor
counts shards. Dimensions split over the same axes share a factor: every layout but the author's own
(and whole on every device) is out of the question anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoshard.program.rule import Dims, OpClass, Rule
from autoshard.rules.base import Draft, OpView
from autoshard.rules.registry import register

Axes = tuple[str, ...]


@register("shard_map")
def manual(op: OpView) -> Rule:
    """Shards of operands and results, each computed on its own."""
    draft = Draft()
    factors = {axes: draft.parallel(_size(op.params, axes)) for axes in manual_axes(op.params)}

    def dims(shapes: Sequence[tuple[int, ...]], specs: Sequence[Any]) -> Iterator[Dims]:
        for shape, spec in zip(shapes, specs, strict=True):
            said = _said(spec, op.params)
            yield tuple(factors.get(said.get(d, ())) for d in range(len(shape)))

    return draft.rule(
        dims(op.in_shapes, op.params["in_specs"]),
        dims(op.out_shapes, op.params["out_specs"]),
        OpClass.MOVE,
    )


def manual_axes(params: Mapping[str, Any]) -> tuple[Axes, ...]:
    """The axes of each factor of a `shard_map`'s rule, in the factors' order.

    An axis belongs to one factor. Where a program splits one dimension over `data` and another over
    `data` and `tensor`, the second is left whole, which its own code then splits.
    """
    found: list[Axes] = []
    for spec in (*params["in_specs"], *params["out_specs"]):
        for axes in _said(spec, params).values():
            if axes not in found and set(axes).isdisjoint(a for old in found for a in old):
                found.append(axes)
    return tuple(axes for axes in found if _size(params, axes) > 1)


def _said(spec: Any, params: Mapping[str, Any]) -> dict[int, Axes]:
    """Dimension -> axes, of those that are manual."""
    manual = params.get("newly_manual_axes", params.get("manual_axes"))
    said: dict[int, Axes] = {}
    for d, entry in enumerate(spec):
        names = (entry,) if isinstance(entry, str) else tuple(entry) if entry else ()
        if names and (manual is None or set(names) <= set(manual)):
            said[d] = names
    return said


def _size(params: Mapping[str, Any], axes: Axes) -> int:
    size = 1
    for axis in axes:
        size *= int(params["mesh"].shape[axis])
    return size
