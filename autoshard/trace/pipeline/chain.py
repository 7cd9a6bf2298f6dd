"""Layers that differ, one after the other: where a step hands one value on, and nothing else.

A model whose layers are of several kinds (dense and with experts, wide and narrow, attention and
recurrence) repeats nothing that could be rolled into a loop. What its layers have in common is the
stream: between two of them a single value with the batch is on its way, always of one type. The
forward pass is cut where that is so, the backward pass likewise where the stream's gradient is
alone on its way, and a forward and a backward part belong to one layer if the one reads what the
other kept.

Where to look is guessed (from names that JAX gives to what it transposed); that a cut is one is
counted, value by value.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from autoshard import _compat
from autoshard.trace.pipeline.repeats import is_literal, multiplies
from autoshard.trace.surgery import variables

# The sides of a layer: of the forward, and of the backward pass.
THERE, BACK = (0, 1)
# Values that are tried as the first of a chain, the first that come.
_TRIED = 400


@dataclass(frozen=True)
class Span:
    """A stretch of equations in which one value comes in, and one goes out.

    Attributes:
        begin, end: indices of the first equation, and of the one behind the last.
        enters, leaves: the variables.
    """

    begin: int
    end: int
    enters: Any
    leaves: Any


@dataclass(frozen=True)
class Layer:
    """One layer: its part of the forward and of the backward pass."""

    there: Span
    back: Span

    @property
    def spans(self) -> tuple[Span, Span]:
        """By side: `THERE`, `BACK`."""
        return self.there, self.back


@dataclass(frozen=True)
class Trace:
    """The equations of a step, and which of its values have the batch in them.

    Attributes:
        jaxpr: all of them, inlined.
        small: the same for a smaller batch.
        twins: variables -> the same for a smaller batch.
    """

    jaxpr: _compat.Jaxpr
    small: _compat.Jaxpr
    twins: dict[Any, Any]

    @cached_property
    def made(self) -> dict[Any, int]:
        """Variables -> the index of the equation that makes them."""
        return {v: i for i, eqn in enumerate(self.jaxpr.eqns) for v in eqn.outvars}

    @cached_property
    def reads(self) -> list[list[Any]]:
        """What each equation reads."""
        return [variables(eqn) for eqn in self.jaxpr.eqns]

    @cached_property
    def products(self) -> np.ndarray[Any, Any]:
        """How many equations multiply something, in front of each."""
        return np.cumsum([0, *map(multiplies, self.jaxpr.eqns)])

    @cached_property
    def turn(self) -> int:
        """The index of the first equation of the backward pass."""
        eqns = self.jaxpr.eqns
        names = (i for i, eqn in enumerate(eqns) if "transpose(" in _compat.name_stack(eqn))
        return next(names, len(eqns))

    def is_split(self, v: Any) -> bool:
        """Whether a value has the batch in it."""
        return _compat.shape_of(v) != _compat.shape_of(self.twins[v])

    def kind(self, v: Any) -> Hashable:
        """The type of a value, for both sizes of the batch."""
        return str(v.aval), str(self.twins[v].aval)


def layers_in(trace: Trace) -> list[Layer]:
    """The layers of the longest chain, in the order of the forward pass; none without a chain."""
    there = _longest(trace, 0, trace.turn, None)
    if len(there) < 2:
        return []
    back = _longest(trace, trace.turn, len(trace.jaxpr.eqns), trace.kind(there[0].enters))
    return _with_products(trace, _matched(trace, there, back))


# -- cuts ----------------------------------------------------------------------------------------


def _longest(trace: Trace, begin: int, end: int, kind: Hashable) -> list[Span]:
    """The chain with most products in more than one stretch among some equations.

    Args:
        trace: the step.
        begin: the first equation that is looked at,
        end: and the one behind the last.
        kind: the type of what is handed on; any where None.
    """
    values = _values(trace, begin, end)
    firsts = [k for k, v in enumerate(values.split) if kind in (None, trace.kind(v))]
    firsts = [k for k in firsts if values.lasts[k] >= 0][:_TRIED]
    depends = _dependence(trace, begin, end, [values.split[k] for k in firsts])
    best, most = list[Span](), 0
    for bit, k in enumerate(firsts):
        own = np.array([depends[v] >> bit & 1 for v in values.split], dtype=bool)
        cuts = [*_cuts(trace, values, own, k, end)]
        if len(cuts) > 2 and cuts[0][1] is values.split[k]:
            spans = [Span(p, q, v, w) for (p, v), (q, w) in pairwise(cuts)]
            each = [int(trace.products[span.end] - trace.products[span.begin]) for span in spans]
            # One long stretch between others that do nothing is no chain.
            apart = sum(each) - max(each)
            if apart > most:
                best, most = spans, apart
    return best


@dataclass(frozen=True)
class _Values:
    """Values with the batch that some equations make, in order.

    Attributes:
        split: the variables.
        firsts, lasts: the equations that make them, and that read them last; -1 where none does.
    """

    split: list[Any]
    firsts: np.ndarray[Any, Any]
    lasts: np.ndarray[Any, Any]


def _values(trace: Trace, begin: int, end: int) -> _Values:
    """Those that the equations from `begin` up to `end` make, and read last."""
    last = dict[Any, int]()
    for i in range(begin, end):
        last.update((v, i) for v in trace.reads[i])
    if end == len(trace.jaxpr.eqns):
        last.update((v, end) for v in trace.jaxpr.outvars if not is_literal(v))
    made = (v for i in range(begin, end) for v in trace.jaxpr.eqns[i].outvars)
    split = [v for v in made if trace.is_split(v)]
    return _Values(
        split,
        np.array([trace.made[v] for v in split]),
        np.array([last.get(v, -1) for v in split]),
    )


def _dependence(trace: Trace, begin: int, end: int, on: Sequence[Any]) -> dict[Any, int]:
    """For what the equations from `begin` up to `end` make: a bit for each value it depends on."""
    bits = {v: 1 << n for n, v in enumerate(on)}
    found = dict[Any, int](bits)
    for i in range(begin, end):
        mask = 0
        for v in trace.reads[i]:
            mask |= found.get(v, 0)
        found.update((v, mask | bits.get(v, 0)) for v in trace.jaxpr.eqns[i].outvars)
    return found


def _cuts(
    trace: Trace, values: _Values, own: np.ndarray[Any, Any], first: int, end: int
) -> Iterator[tuple[int, Any]]:
    """Where nothing but one value is on its way of what depends on the first of a chain.

    Args:
        trace: the step.
        values: with the batch.
        own: which of them depend on the first.
        first: the place of that among them.
        end: where to stop.

    Yields:
        The index of an equation and what is handed on to it.
    """
    start, kind = int(values.firsts[first]) + 1, trace.kind(values.split[first])
    on = np.flatnonzero(own & (values.lasts >= 0))
    change = np.zeros((2, end - start + 2), dtype=np.int64)
    for row, amount in ((0, np.ones_like(on)), (1, on)):
        np.add.at(change[row], values.firsts[on] + 1 - start, amount)
        np.add.at(change[row], np.minimum(values.lasts[on], end) + 1 - start, -amount)
    alone, total = np.cumsum(change, axis=1)
    seen = set[int]()
    for p in np.flatnonzero(alone == 1):
        k = int(total[p])
        if k not in seen and p + start <= end and trace.kind(values.split[k]) == kind:
            seen.add(k)
            yield int(p) + start, values.split[k]


# -- layers --------------------------------------------------------------------------------------


def _matched(trace: Trace, there: Sequence[Span], back: Sequence[Span]) -> list[Layer]:
    """Layers: the parts there, as far as must be together, and what goes back through each."""
    if not back:
        return []
    at = {i: k for k, span in enumerate(there) for i in range(span.begin, span.end)}
    enters = {span.enters: k for k, span in enumerate(there)}
    handed = {span.leaves for span in there} | enters.keys()
    depends = _dependence(trace, there[0].begin, there[-1].end, [there[0].enters])

    def kept(span: Span) -> list[int]:
        """The parts there that kept something for a part back."""
        reads = [v for i in range(span.begin, span.end) for v in trace.reads[i]]
        own = {at[trace.made[v]] for v in reads if depends.get(v) and v not in handed}
        # What computes all of its layer again reads nothing but what came into it.
        return sorted(own or {enters[v] for v in reads if v in enters})

    groups: list[tuple[int, int, int, int]] = []  # [there, there), [back, back)
    for k, parts in enumerate(map(kept, back)):
        if not parts:  # reads nothing of them: goes with what goes back before
            if groups:
                a, b, c, _ = groups[-1]
                groups[-1] = (a, b, c, k + 1)
            continue
        a, b, c, d = parts[0], parts[-1] + 1, k, k + 1
        while groups and groups[-1][0] < b:
            a, b, c = min(a, groups[-1][0]), max(b, groups[-1][1]), groups[-1][2]
            groups.pop()
        groups.append((a, b, c, d))
    groups.reverse()
    for k in range(len(groups) - 1):  # what nobody kept anything of goes with what comes before
        a, _, c, d = groups[k]
        groups[k] = (a, groups[k + 1][0], c, d)
    return [
        Layer(_joined(there[a:b]), _joined(back[c:d])) for a, b, c, d in groups if b > a and d > c
    ]


def _joined(spans: Sequence[Span]) -> Span:
    return Span(spans[0].begin, spans[-1].end, spans[0].enters, spans[-1].leaves)


def _with_products(trace: Trace, layers: Sequence[Layer]) -> list[Layer]:
    """The layers; those that multiply nothing as part of their neighbours, at the ends left out."""

    def has_products(layer: Layer) -> bool:
        return bool(trace.products[layer.there.end] > trace.products[layer.there.begin])

    ends = [k for k, layer in enumerate(layers) if has_products(layer)]
    found = list[Layer]()
    for layer in layers[ends[0] : ends[-1] + 1] if ends else ():
        if found and not (has_products(layer) and has_products(found[-1])):
            last = found.pop()
            there, back = _joined([last.there, layer.there]), _joined([layer.back, last.back])
            found.append(Layer(there, back))
        else:
            found.append(layer)
    return found
