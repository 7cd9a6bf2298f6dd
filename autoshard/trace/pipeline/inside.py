"""Which equations of a step belong inside which layer of a chain, and which stay outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoshard.trace.pipeline.chain import BACK, THERE, Layer, Trace


@dataclass
class Inside:
    """Equations inside layers; from `inside`.

    Attributes:
        trace: the step.
        layers: of it.
        of: index of an equation -> its layer, and whether it is of the forward or the backward
            pass; of those inside.
        owners: variables that depend on the chain -> the layers that may read them as their own.
    """

    trace: Trace
    layers: Sequence[Layer]
    of: dict[int, tuple[int, int]] = field(default_factory=dict)
    owners: dict[Any, frozenset[int]] = field(default_factory=dict)

    def eqns(self, layer: int, side: int) -> list[int]:
        """Indices of the equations of one layer."""
        span = self.layers[layer].spans[side]
        return [i for i in range(span.begin, span.end) if self.of.get(i) == (layer, side)]


def inside(trace: Trace, layers: Sequence[Layer]) -> Inside | None:
    """Sort a step's equations; None where some cannot be inside a layer nor wait until afterwards.

    Inside is what one layer makes of the stream, and of what is kept of it, alone. What several
    layers have made (a sum over layers) is outside, and so is what does not depend on the stream,
    unless it is constant or as large as the batch, and read by one layer only.
    """
    found = Inside(trace, layers)
    _own_streams(found)
    late = set[Any]()
    for side in (THERE, BACK):
        spans = [layer.spans[side] for layer in layers]
        numbered = sorted(enumerate(spans), key=lambda each: each[1].begin)
        for layer, span in numbered:
            for i in range(span.begin, span.end):
                _place(found, i, layer, side, late)
    _leave_out(found)
    _take_in(found)
    needs = [trace.reads[i] for i in found.of]
    needs += [[layer.there.leaves, layer.back.leaves] for layer in layers]
    return None if any(v in late for each in needs for v in each) else found


def _own_streams(found: Inside) -> None:
    """What is handed on belongs to the layer that makes it, and to the one that takes it."""
    for number, layer in enumerate(found.layers):
        for v in (layer.there.enters, layer.there.leaves, layer.back.enters, layer.back.leaves):
            found.owners[v] = found.owners.get(v, frozenset()) | {number}


def _place(found: Inside, i: int, layer: int, side: int, late: set[Any]) -> None:
    """Whether an equation in the span of a layer is inside it, or comes afterwards."""
    reads, made = found.trace.reads[i], found.trace.jaxpr.eqns[i].outvars
    dependent = [found.owners[v] for v in reads if v in found.owners]
    if any(v in late for v in reads) or any(layer not in owners for owners in dependent):
        late.update(made)
    elif dependent:
        found.of[i] = (layer, side)
        for v in made:
            found.owners.setdefault(v, frozenset((layer,)))


def _leave_out(found: Inside) -> None:
    """What in the span of the last layer's way back is of what comes after the layers.

    The gradient of a head's weights is the product of what the last layer hands on and of a
    gradient that no layer has to do with; it stands where its equation happens to.
    """
    trace, number = found.trace, len(found.layers) - 1
    end, eqns = found.layers[-1].there.leaves, found.eqns(number, BACK)
    theirs, apart = (
        {end},
        dict[int, None](),
    )  # what depends on nothing of the layers but what they end in
    for i in eqns:
        if all(v in theirs for v in trace.reads[i] if v in found.owners):
            theirs.update(trace.jaxpr.eqns[i].outvars)
            apart[i] = None
    read = {v for i in found.of if i not in apart for v in trace.reads[i]}
    for i in reversed(apart):
        made = trace.jaxpr.eqns[i].outvars
        if any(v in read for v in made):
            read.update(trace.reads[i])
            continue
        del found.of[i]
        for v in made:
            del found.owners[v]


def _take_in(found: Inside) -> None:
    """What is constant or as large as the batch, on no stream, and read by one layer only."""
    trace, constant = found.trace, set[Any]()
    for i, eqn in enumerate(trace.jaxpr.eqns):
        if all(v in constant for v in trace.reads[i]):
            constant.update(eqn.outvars)
    readers = dict[Any, set[tuple[int, int] | None]]()

    def note(variables: Iterable[Any], where: tuple[int, int] | None) -> None:
        for v in variables:
            readers.setdefault(v, set()).add(where)

    note((v for v in trace.jaxpr.outvars if v in trace.twins), None)
    for i in range(len(trace.jaxpr.eqns) - 1, -1, -1):
        made = trace.jaxpr.eqns[i].outvars
        if i not in found.of and any(v in constant or trace.is_split(v) for v in made):
            places = {where for v in made for where in readers.get(v, ())}
            layers = {None if where is None else where[0] for where in places}
            free = not any(v in found.owners for v in trace.reads[i])
            if len(layers) == 1 and None not in layers and free and _is_in_span(found, i, places):
                (layer,) = layers
                assert layer is not None
                found.of[i] = (layer, THERE if (layer, THERE) in places else BACK)
                found.owners.update((v, frozenset((layer,))) for v in made)
        note(trace.reads[i], found.of.get(i))


def _is_in_span(found: Inside, i: int, places: set[tuple[int, int] | None]) -> bool:
    """Whether an equation stands where the part of the layer does that reads it first."""
    (layer, side) = min(place for place in places if place is not None)
    span = found.layers[layer].spans[side]
    return span.begin <= i < span.end
