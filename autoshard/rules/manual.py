"""Code that users lay out themselves (`shard_map`), and the collectives that they write in it.

A `shard_map` over all axes of its mesh is one op, laid out as its author says. One that leaves axes
to the compiler is a region, with an op for every value that enters or leaves it.

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


def crossing(
    shape: Sequence[int], spec: Any, params: Mapping[str, Any], *, enters: bool
) -> tuple[Rule, tuple[Axes | None, ...]]:
    """The boundary of a `shard_map`: a value as a whole, and as one shard has it.

    Args:
        shape: of the whole.
        spec: that the author gives it.
        params: of the `shard_map`.
        enters: whether the value goes in, or comes out.

    Returns:
        The rule, and the axes of each factor: None for dimensions that the author leaves open.
    """
    draft, said = Draft(), _said(spec, params)
    outer, inner, axes = list[int | None](), list[int | None](), list[Axes | None]()
    for d, size in enumerate(shape):
        split = said.get(d, ())
        shards = _size(params, split)
        factor = draft.parallel(shards if split else size)
        outer.append(factor)
        inner.append(None if split else factor)
        if factor is not None:
            axes.append(split if split else None)
    sides = (outer, inner) if enters else (inner, outer)
    return draft.rule([tuple(sides[0])], [tuple(sides[1])], OpClass.FREE), tuple(axes)


# What a program writes itself, in code for one shard -> the parameter that names its axes, and the
# collective that it is.
SENDS = {
    "all_gather": ("axis_name", "all-gather"),
    "all_to_all": ("axis_name", "all-to-all"),
    "pmax": ("axes", "all-reduce"),
    "pmin": ("axes", "all-reduce"),
    "ppermute": ("axis_name", "permute"),
    "psum": ("axes", "all-reduce"),
    "psum_invariant": ("axes", "all-reduce"),
    "reduce_scatter": ("axis_name", "reduce-scatter"),
}


def sent_over(kind: str, params: Mapping[str, Any]) -> Axes:
    """The axes that a collective of the user's runs along; none for any other primitive."""
    said = params[SENDS[kind][0]] if kind in SENDS else ()
    return (said,) if isinstance(said, str) else tuple(a for a in said if isinstance(a, str))


def sent_as(kind: str) -> str:
    """The collective that a primitive of `SENDS` is."""
    return SENDS[kind][1]


@register("ppermute", "psum", "psum_invariant", "pmax", "pmin")
def elementwise_send(op: OpView) -> Rule:
    """Every element goes its way, or is summed, on its own."""
    draft = Draft()
    sides = [draft.parallels(shape) for shape in op.in_shapes]
    return draft.rule(sides, sides, OpClass.SEND)


@register("all_gather", "reduce_scatter")
def dealing_send(op: OpView) -> Rule:
    """One dimension is put together of the shards' parts, or dealt out to them."""
    p, draft = op.params, Draft()
    dim = p["all_gather_dimension"] if "all_gather_dimension" in p else p["scatter_dimension"]
    source, result = list[int | None](), list[int | None]()
    (before,), (after,) = op.in_shapes, op.out_shapes
    kept = draft.parallels(tuple(n for d, n in enumerate(before) if d != dim or not p["tiled"]))
    if p["tiled"]:
        source = result = [*kept[:dim], None, *kept[dim:]]
    elif len(after) > len(before):
        source, result = list(kept), [*kept[:dim], None, *kept[dim:]]
    else:
        rest = draft.parallels(after)
        source, result = [*rest[:dim], None, *rest[dim:]], list(rest)
    return draft.rule([tuple(source)], [tuple(result)], OpClass.SEND)


@register("all_to_all")
def exchanging_send(op: OpView) -> Rule:
    """Parts of one dimension for parts of another, which both stay whole."""
    p, draft = op.params, Draft()
    (before,) = op.in_shapes
    if not p["tiled"]:
        whole = (None,) * len(before)
        return draft.rule([whole], [(None,) * len(op.out_shapes[0])], OpClass.SEND)
    moved = {p["split_axis"], p["concat_axis"]}
    dims = tuple(None if d in moved else draft.parallel(n) for d, n in enumerate(before))
    return draft.rule([dims], [dims], OpClass.SEND)


@register("axis_index")
def own_number(op: OpView) -> Rule:
    """A number of one shard."""
    return Draft().rule([], [()], OpClass.FREE)


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
