"""Layers of several kinds as one loop: in every trip, a switch says which kind it is.

A chain of layers that differ (`chain`) becomes a `scan` whose body is a `switch` over their kinds,
and a second one the other way for the backward pass, as if the model had been written so and
differentiated. Each layer has a row in every stack; what it does not need of them is anything. Kind
0 is no layer: it hands on what it gets.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from autoshard import _compat
from autoshard.errors import MicrobatchError
from autoshard.trace.pipeline.chain import BACK, THERE, Trace, layers_in
from autoshard.trace.pipeline.form import Form, twins
from autoshard.trace.pipeline.inside import Inside, inside
from autoshard.trace.pipeline.repeats import SLICES, is_literal, numbered, params_of
from autoshard.trace.pipeline.written import (
    Unit,
    in_order,
    jaxpr_of,
    kinds_of_layers,
    scan,
    slices_of,
    slot_of,
    stacked,
    switch,
    traced,
    zeros,
)
from autoshard.trace.source import user_line
from autoshard.trace.surgery import Env, inlined, renamed

_SIDES = (THERE, BACK)
# How a layer calls what is handed to it, forward and back.
_ENTERS, _COMES_BACK = ("enters", "comes back")
# A value of a layer: (side, equation of the layer, result), or one of those.
_Local = Hashable


def merged(big: _compat.ClosedJaxpr, small: _compat.ClosedJaxpr) -> Form | None:
    """A step with its chain of layers as loops; None where there is no chain of several layers.

    Args:
        big: the step for the whole batch.
        small: for a part of it.
    """
    one, other = inlined(big), inlined(small)
    try:
        trace = Trace(one.jaxpr, other.jaxpr, twins(one.jaxpr, other.jaxpr))
    except MicrobatchError:
        return None
    layers = layers_in(trace)
    found = inside(trace, layers) if len(layers) > 1 else None
    if found is None:
        return None
    chain = _Chain(found)
    sides = [_Side(chain, side) for side in _SIDES]
    large = _Writer(chain, sides, one, {}).program()
    less = _Writer(chain, sides, other, trace.twins).program()
    if large is None or less is None:
        return None
    line = user_line(one.jaxpr.eqns[layers[0].there.begin])
    note = (
        f"rolled: the {len(layers)} layers from {line} on are one loop, of"
        f" {max(chain.kinds)} kinds of layers"
    )
    return Form(large, less, (note,), tuple(chain.kinds))


# -- what layers have in common ------------------------------------------------------------------


@dataclass
class _Kind:
    """Layers that are alike.

    Attributes:
        members: their numbers.
        outside: for either side and each layer, what it reads of what is not its own, in order.
        exports: for either side, what is read elsewhere, as layers call it.
    """

    members: list[int] = field(default_factory=list)
    outside: tuple[list[list[Any]], list[list[Any]]] = field(default_factory=lambda: ([], []))
    exports: tuple[dict[_Local, None], dict[_Local, None]] = field(default_factory=lambda: ({}, {}))


class _Chain:
    """Layers and what they read and make.

    Args:
        found: their equations.

    Attributes:
        kinds: of each layer, its number; from 1 on.
        groups: the kinds, by number.
        names: for each layer, variables -> how it calls them.
        makers: variables that are made inside -> the layer, and the side.
    """

    def __init__(self, found: Inside) -> None:
        self.found, self.trace = found, found.trace
        self.layers = found.layers
        self.makers = {
            v: place for i, place in found.of.items() for v in self.trace.jaxpr.eqns[i].outvars
        }
        # What is alike for the whole batch may differ for a part of it: a dimension that is the
        # batch in one layer may be as large and none in another.
        both = (self.trace.jaxpr.eqns, self.trace.small.eqns)
        self.numbers = [*zip(*(numbered(eqns).tolist() for eqns in both), strict=True)]
        self.names: list[dict[Any, _Local]] = []
        self.kinds: list[int] = []
        self.groups: dict[int, _Kind] = {}
        table, fresh = dict[Hashable, int](), count(1)
        for number, layer in enumerate(self.layers):
            names: dict[Any, _Local] = {
                layer.there.enters: _ENTERS,
                layer.back.enters: _COMES_BACK,
            }
            keys, reads = zip(*(self._key(number, side, names) for side in _SIDES), strict=True)
            kind = table.get(keys) or table.setdefault(keys, next(fresh))
            group = self.groups.setdefault(kind, _Kind())
            group.members.append(number)
            for side in _SIDES:
                group.outside[side].append(reads[side])
            self.kinds.append(kind)
            self.names.append(names)
        self._export()

    def _key(self, number: int, side: int, names: dict[Any, _Local]) -> tuple[Hashable, list[Any]]:
        """What equal layers share, on one side, and what a layer reads of what is not its own."""
        outside, key = dict[Any, int](), list[Hashable]()
        for j, i in enumerate(self.found.eqns(number, side)):
            eqn, small = self.trace.jaxpr.eqns[i], self.trace.small.eqns[i]
            reads = list[Hashable]()
            for v, w in zip(eqn.invars, small.invars, strict=True):
                if isinstance(v, _compat.Literal):
                    reads.append((_said(v), _said(w)))
                elif v in names:
                    reads.append(names[v])
                else:
                    reads.append((outside.setdefault(v, len(outside)), self.trace.kind(v)))
            exact = (params_of(x) for x in (eqn, small) if x.primitive.name in SLICES)
            key.append((self.numbers[i], *exact, *reads))
            for r, v in enumerate(eqn.outvars):
                names.setdefault(v, (side, j, r))
        span = self.layers[number].spans[side]
        key.append(names.get(span.leaves))
        return tuple(key), [*outside]

    def _export(self) -> None:
        """Note what is read elsewhere than on its own side of its own layer."""
        for i, reads in enumerate(self.trace.reads):
            own = self.found.of.get(i)
            for v in reads:
                self._note(v, own)
        for v in self.trace.jaxpr.outvars:
            if not is_literal(v):
                self._note(v, None)

    def _note(self, v: Any, own: tuple[int, int] | None) -> None:
        maker = self.makers.get(v)
        if own is None:
            if maker is None or self._is_handed_out(v):
                return
            own = (maker[0], -1)
        name = self.names[own[0]].get(v) if own[0] in self.found.owners.get(v, ()) else None
        if name is not None and self.side_of(name) != own[1]:
            self.groups[self.kinds[own[0]]].exports[self.side_of(name)][name] = None

    def _is_handed_out(self, v: Any) -> bool:
        """Whether a value is there outside of the loops anyway."""
        first, last = self.layers[0], self.layers[-1]
        ends = (first.there.enters, last.there.leaves, last.back.enters, first.back.leaves)
        return any(v is end for end in ends)

    @staticmethod
    def side_of(name: _Local) -> int:
        """Where a layer has a value from."""
        if isinstance(name, tuple):
            return int(name[0])
        return THERE if name == _ENTERS else BACK

    def read_outside(self) -> Iterator[tuple[int, Any]]:
        """What is read outside of the layers but made inside: the layer, and the variable."""
        wanted = dict[Any, None]()
        for i, reads in enumerate(self.trace.reads):
            if i not in self.found.of:
                wanted.update(dict.fromkeys(reads))
        wanted.update(dict.fromkeys(v for v in self.trace.jaxpr.outvars if not is_literal(v)))
        for v in wanted:
            if v in self.makers and not self._is_handed_out(v):
                yield self.makers[v][0], v


def _said(literal: Any) -> Hashable:
    """What equal literals share."""
    return repr(getattr(literal, "val", None)), str(literal.aval)


# -- stacks --------------------------------------------------------------------------------------


class _Side:
    """One of the two loops: its operands and results.

    Attributes:
        consts: what several layers read.
        rows: stacks of what is each layer's own: layer -> variable.
        places: for each kind, what it reads: whether it is one of `consts`, and which of these or
            of `rows`.
        stacks: types of the stacks that it makes, by an example's variable.
        made: for each kind, what it exports -> which stack.
    """

    def __init__(self, chain: _Chain, side: int) -> None:
        self.consts: dict[Any, int] = {}
        self.rows: list[dict[int, Any]] = []
        self.places: dict[int, list[tuple[bool, int]]] = {}
        self.stacks: list[Any] = []
        self.made: dict[int, dict[_Local, int]] = {}
        readers = dict[Any, set[int]]()
        for kind in chain.groups.values():
            for number, reads in zip(kind.members, kind.outside[side], strict=True):
                for v in reads:
                    readers.setdefault(v, set()).add(number)
        types = list[Hashable]()
        for k, kind in chain.groups.items():
            taken, self.places[k] = set[int](), []
            for values in zip(*kind.outside[side], strict=True):
                first = values[0]
                if len(readers[first]) > 1 and all(v is first for v in values):
                    place = self.consts.setdefault(first, len(self.consts))
                    self.places[k].append((True, place))
                    continue
                slot = slot_of(types, chain.trace.kind(first), taken)
                if slot == len(self.rows):
                    self.rows.append({})
                self.rows[slot].update(zip(kind.members, values, strict=True))
                self.places[k].append((False, slot))
        types = []
        for k, kind in chain.groups.items():
            taken, self.made[k] = set(), {}
            variables = {name: v for v, name in chain.names[kind.members[0]].items()}
            for name in kind.exports[side]:
                slot = slot_of(types, chain.trace.kind(variables[name]), taken)
                if slot == len(self.stacks):
                    self.stacks.append(variables[name])
                self.made[k][name] = slot


class _Writer:
    """One of the two traces, with loops.

    Args:
        chain: the layers, as the trace of the whole batch has them.
        sides: what their loops read and make, likewise.
        closed: the trace.
        view: variables of the whole batch -> its own; those that are missing are its own.
    """

    def __init__(
        self,
        chain: _Chain,
        sides: Sequence[_Side],
        closed: _compat.ClosedJaxpr,
        view: Mapping[Any, Any],
    ) -> None:
        self.chain, self.closed, self.view = chain, closed, view
        self.eqns = closed.jaxpr.eqns
        self.sides = sides
        self.length = len(chain.layers)
        self.numbers, self.kinds = kinds_of_layers(chain.kinds)
        self.stacks = [
            [
                _compat.new_var(_compat.stacked_aval(self.own(v).aval, self.length))
                for v in side.stacks
            ]
            for side in self.sides
        ]

    def own(self, v: Any) -> Any:
        """A variable of this trace."""
        return self.view.get(v, v)

    def program(self) -> _compat.ClosedJaxpr | None:
        """The trace with loops; None where something is needed before it can be there."""
        jaxpr, chain = self.closed.jaxpr, self.chain
        units = list[Unit]()
        ends = [max(i for i in chain.found.of if chain.found.of[i][1] == side) for side in _SIDES]
        for i, eqn in enumerate(self.eqns):
            if i not in chain.found.of:
                units.append(Unit.of([eqn]))
            units += [self._loop(side) for side in _SIDES if i == ends[side]]
        eqns = in_order(units, {*jaxpr.constvars, *jaxpr.invars, self.numbers})
        if eqns is None:
            return None
        constvars = [*jaxpr.constvars, self.numbers]
        whole = _compat.new_jaxpr(jaxpr, constvars, jaxpr.invars, jaxpr.outvars, eqns)
        closed = _compat.ClosedJaxpr(whole, [*self.closed.consts, self.kinds])
        return _compat.without_dead_code(closed)

    def _loop(self, side: int) -> Unit:
        """One of the loops, the stacks that it reads, and what is read of those that it makes."""
        chain, own = self.chain, self.sides[side]
        first, last = chain.layers[0], chain.layers[-1]
        spans = ((first.there, last.there), (last.back, first.back))[side]
        eqn = self.eqns[spans[0].begin]
        begin = self.eqns[first.there.begin].source_info
        # The line is that of the first layer, for both loops.
        info = begin.replace(name_stack=eqn.source_info.name_stack)
        eqns = list[_compat.JaxprEqn]()
        operands = list[Any]()
        for rows in own.rows:
            # A layer that has none takes another's: it does not look at it.
            some = next(iter(rows.values()))
            values = [self.own(rows.get(number, some)) for number in range(self.length)]
            stack = _compat.new_var(_compat.stacked_aval(values[0].aval, self.length))
            eqns += traced(stacked, values, [stack], info)
            operands.append(stack)
        kept = self.stacks[THERE] if side == BACK else []
        loop = scan(
            self._body(side),
            [self.own(v) for v in own.consts],
            [self.own(spans[0].enters)],
            [self.numbers, *operands, *kept],
            [self.own(spans[1].leaves), *self.stacks[side]],
            self.length,
            side == BACK,
            eqn,
            info,
        )
        eqns.append(loop)
        eqns += self._taken_out(side, info)
        return Unit.of(eqns)

    def _taken_out(self, side: int, info: Any) -> Iterator[_compat.JaxprEqn]:
        """Slices of stacks, for what is read outside."""
        chain, wanted = self.chain, dict[int, dict[int, Any]]()
        for number, v in chain.read_outside():
            name = chain.names[number][v]
            if chain.side_of(name) == side:
                slot = self.sides[side].made[chain.kinds[number]][name]
                wanted.setdefault(slot, {})[number] = self.own(v)
        for slot, rows in wanted.items():
            stack = self.stacks[side][slot]
            yield from traced(slices_of([*rows]), [stack], [*rows.values()], info)

    # -- bodies ----------------------------------------------------------------------------------

    def _body(self, side: int) -> _compat.ClosedJaxpr:
        """A trip: the switch over kinds."""
        own, chain = self.sides[side], self.chain
        kept = self.sides[THERE].stacks if side == BACK else []
        examples = [
            *own.consts,
            chain.layers[0].there.enters,
            *(next(iter(rows.values())) for rows in own.rows),
            *kept,
        ]
        operands = [_compat.new_var(self.own(v).aval) for v in examples]
        carry = len(own.consts)
        which = _compat.new_var(_compat.retrace(lambda x: x[0], [self.numbers.aval]).out_avals[0])
        made = [_compat.new_var(self.own(v).aval) for v in (examples[carry], *own.stacks)]
        like = self.eqns[chain.layers[0].there.begin]
        kinds = [self._kind(side, k, operands) for k in sorted(chain.groups)]
        branches = [self._nothing(side, operands), *kinds]
        chosen = switch(branches, which, operands, made, like, like.source_info)
        arguments = [*operands[: carry + 1], which, *operands[carry + 1 :]]
        return jaxpr_of(arguments, made, [chosen])

    def _arguments(self, operands: Sequence[Any]) -> list[Any]:
        return [_compat.new_var(v.aval) for v in operands]

    def _nothing(self, side: int, operands: Sequence[Any]) -> _compat.ClosedJaxpr:
        """No layer."""
        arguments, own = self._arguments(operands), self.sides[side]
        eqns, stacks = self._zeros(side, range(len(own.stacks)))
        return jaxpr_of(arguments, [arguments[len(own.consts)], *stacks.values()], eqns)

    def _zeros(
        self, side: int, slots: Iterable[int]
    ) -> tuple[list[_compat.JaxprEqn], dict[int, Any]]:
        """What a layer leaves in stacks that it does not use."""
        info = self.eqns[self.chain.layers[0].there.begin].source_info
        eqns, found = list[_compat.JaxprEqn](), dict[int, Any]()
        for slot in slots:
            found[slot], more = zeros(self.own(self.sides[side].stacks[slot]).aval, info)
            eqns += more
        return eqns, found

    def _kind(self, side: int, kind: int, operands: Sequence[Any]) -> _compat.ClosedJaxpr:
        """What layers of one kind do, after the first of them."""
        chain, own, group = self.chain, self.sides[side], self.chain.groups[kind]
        number = group.members[0]
        layer = chain.layers[number]
        arguments, carry = self._arguments(operands), len(own.consts)
        rows = arguments[carry + 1 :]
        env: Env = {}
        for v, (is_const, place) in zip(group.outside[side][0], own.places[kind], strict=True):
            env[self.own(v)] = arguments[place] if is_const else rows[place]
        variables = {name: self.own(v) for v, name in chain.names[number].items()}
        if side == BACK:
            for name, slot in self.sides[THERE].made[kind].items():
                env[variables[name]] = rows[len(own.rows) + slot]
        span = layer.spans[side]
        env[self.own(span.enters)] = arguments[carry]
        eqns = renamed([self.eqns[i] for i in chain.found.eqns(number, side)], env)
        stacks = {slot: env[variables[name]] for name, slot in own.made[kind].items()}
        more, unused = self._zeros(side, [s for s in range(len(own.stacks)) if s not in stacks])
        made = stacks | unused
        leaves = env[self.own(span.leaves)]
        results = [leaves, *(made[s] for s in sorted(made))]
        # The two passes are loops of their own: the compiler cannot keep what is computed again.
        return inlined(jaxpr_of(arguments, results, [*eqns, *more]), remat=True)
