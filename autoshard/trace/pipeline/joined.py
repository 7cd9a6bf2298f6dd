"""Loops over layers that hand on the same value, one after the other, as one loop.

Three dense layers in one `scan`, then fifty with experts in another: cut into stages each by
itself, they would have a bubble each, and three layers are fewer than four stages. As one loop over
layers of two kinds they are a chain like any other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from autoshard import _compat
from autoshard.trace.pipeline.form import Form, twins
from autoshard.trace.pipeline.written import (
    Unit,
    in_order,
    jaxpr_of,
    kinds_of_layers,
    scan,
    slot_of,
    switch,
    traced,
    zeros,
)
from autoshard.trace.source import user_line
from autoshard.trace.surgery import Env, atom, inlined, readers, renamed


def joined(flat: Form, loops: Sequence[int]) -> Form:
    """A step with such loops joined; as it is where there are none.

    Args:
        flat: the step, inlined.
        loops: the indices of its loops over layers.
    """
    views: tuple[Mapping[Any, Any], Mapping[Any, Any]] = (
        {},
        twins(flat.big.jaxpr, flat.small.jaxpr),
    )
    for there, back in _chains(flat, loops, views[1]):
        sides = [_Side(flat, there, views[1])]
        if back:
            sides.append(_Side(flat, back[::-1], views[1], sides[0]))
        big, less = (
            _written(closed, sides, view)
            for closed, view in zip((flat.big, flat.small), views, strict=True)
        )
        if big is not None and less is not None:
            lengths = [flat.big.jaxpr.eqns[i].params["length"] for i in there]
            line = user_line(flat.big.jaxpr.eqns[there[0]])
            note = (
                f"rolled: the loops over {' and '.join(map(str, lengths))} layers from {line} on"
                f" are one loop, of {len(lengths)} kinds of layers"
            )
            kinds = tuple(k + 1 for k, n in enumerate(lengths) for _ in range(n))
            return Form(big, less, (note,), kinds)
    return flat


# -- which ---------------------------------------------------------------------------------------


def _chains(
    flat: Form, loops: Sequence[int], small: Mapping[Any, Any]
) -> list[tuple[list[int], list[int]]]:
    """Loops one after the other in the forward pass, and in the backward pass; longest first."""
    eqns = flat.big.jaxpr.eqns
    reads = readers(flat.big.jaxpr)
    after = dict[int, int]()
    for i in loops:
        (_, n_carry), eqn = _compat.scan_counts(eqns[i].params), eqns[i]
        for v in eqn.outvars[:n_carry]:
            uses = reads.get(v, [])
            if _compat.shape_of(v) == _compat.shape_of(small[v]) or len(uses) != 1:
                continue
            ((at, slot),) = uses
            if at in loops and at is not None and _is_carried(eqns[at], slot):
                if eqns[at].params["reverse"] == eqn.params["reverse"]:
                    after[i] = at
    follows, found = {*after.values()}, list[tuple[list[int], list[int]]]()
    chains = dict[int, list[int]]()
    for i in loops:
        if i in after and i not in follows:
            chains[i] = [i]
            while chains[i][-1] in after:
                chains[i].append(after[chains[i][-1]])
    mirrors = {i: _mirrors(flat, i, loops) for i in loops}
    for chain in chains.values():
        back = [j for i in reversed(chain) for j in mirrors[i]]
        is_there = all(not mirrors[j] for j in back)
        if is_there and (not back or back in [*chains.values()]) and not _is_back(chain, mirrors):
            found.append((chain, back))
    return sorted(found, key=lambda each: -len(each[0]))


def _is_back(chain: Sequence[int], mirrors: Mapping[int, Sequence[int]]) -> bool:
    """Whether loops read what others kept for them."""
    return any(i in back for back in mirrors.values() for i in chain)


def _is_carried(loop: _compat.JaxprEqn, slot: int) -> bool:
    n, n_carry = _compat.scan_counts(loop.params)
    return n <= slot < n + n_carry


def _mirrors(flat: Form, i: int, loops: Sequence[int]) -> list[int]:
    """The loops the other way that read slice by slice what one has stacked."""
    eqns = flat.big.jaxpr.eqns
    (_, n_carry), eqn = _compat.scan_counts(eqns[i].params), eqns[i]
    stacks = {*eqn.outvars[n_carry:]}
    found = []
    for j in loops:
        xs = eqns[j].invars[sum(_compat.scan_counts(eqns[j].params)) :]
        if eqns[j].params["reverse"] != eqn.params["reverse"] and stacks.intersection(
            v for v in xs if not isinstance(v, _compat.Literal)
        ):
            found.append(j)
    return found


# -- as one --------------------------------------------------------------------------------------


class _Side:
    """Loops one after the other, and what they have in common.

    Args:
        flat: the step.
        loops: their indices, in the order of their layers.
        small: variables of the whole batch -> of a part of it.
        kept: the other side, whose stacks these may read.

    Attributes:
        consts: what all trips of some see.
        places: of each loop, which of those each of its constants is.
        carries: what is handed on: the variable before the first loop that has it, and behind the
            last.
        carried: of each loop, which of those each of its carries is.
        rows: stacks that are read slice by slice: loop -> variable.
        read: of each loop, which of those each of its operands is; below 0, counted from -1, of
            those that the other side makes.
        made: types of the stacks that come out, by an example's variable.
        makes: of each loop, which of those each of its results is.
    """

    def __init__(
        self,
        flat: Form,
        loops: Sequence[int],
        small: Mapping[Any, Any],
        kept: _Side | None = None,
    ) -> None:
        self.loops, self.small = loops, small
        self.eqns = [flat.big.jaxpr.eqns[i] for i in loops]
        self.reverse = bool(self.eqns[0].params["reverse"])
        self.lengths = [int(eqn.params["length"]) for eqn in self.eqns]
        self.consts: list[Any] = []
        self.places: list[list[int]] = []
        self.carries: list[tuple[Any, Any]] = []
        self.carried: list[list[int]] = []
        self.rows: list[dict[int, Any]] = []
        self.read: list[list[int]] = []
        self.made: list[Any] = []
        self.makes: list[list[int]] = []
        self._carry()
        inputs, outputs = list[Hashable](), list[Hashable]()
        for p, eqn in enumerate(self.eqns):
            n, n_carry = _compat.scan_counts(eqn.params)
            self.places.append([self._place(v) for v in eqn.invars[:n]])
            taken, read = set[int](), []
            stacks = {} if kept is None else dict(kept.stacks_of(p))
            for v in eqn.invars[n + n_carry :]:
                if not isinstance(v, _compat.Literal) and v in stacks:
                    read.append(-1 - stacks[v])
                    continue
                slot = slot_of(inputs, self._row_type(v), taken)
                if slot == len(self.rows):
                    self.rows.append({})
                self.rows[slot][p] = v
                read.append(slot)
            self.read.append(read)
            taken, makes = set(), []
            for v in eqn.outvars[n_carry:]:
                slot = slot_of(outputs, self._row_type(v), taken)
                if slot == len(self.made):
                    self.made.append(v)
                makes.append(slot)
            self.makes.append(makes)

    def _place(self, v: Any) -> int:
        """Of a constant."""
        for k, known in enumerate(self.consts):
            if known is v:
                return k
        self.consts.append(v)
        return len(self.consts) - 1

    def stacks_of(self, p: int) -> list[tuple[Any, int]]:
        """What a loop stacks: the variable, and which stack it is part of."""
        n_carry = _compat.scan_counts(self.eqns[p].params)[1]
        return [*zip(self.eqns[p].outvars[n_carry:], self.makes[p], strict=True)]

    def _row_type(self, v: Any) -> Hashable:
        """The type of a row of a stack, for both sizes of the batch."""
        own = self.small.get(v, v)
        return v.aval.dtype, v.aval.shape[1:], own.aval.shape[1:]

    def _carry(self) -> None:
        """Sort what is handed on."""
        self.carried = [[] for _ in self.eqns]
        order = range(len(self.eqns))
        for p in reversed(order) if self.reverse else order:
            eqn = self.eqns[p]
            n, n_carry = _compat.scan_counts(eqn.params)
            ends = {end: c for c, (_, end) in enumerate(self.carries)}
            for v, end in zip(eqn.invars[n : n + n_carry], eqn.outvars[:n_carry], strict=True):
                c = None if isinstance(v, _compat.Literal) else ends.get(v)
                if c is None:
                    c = len(self.carries)
                    self.carries.append((v, end))
                else:
                    self.carries[c] = (self.carries[c][0], end)
                self.carried[p].append(c)


def _written(
    closed: _compat.ClosedJaxpr, sides: Sequence[_Side], view: Mapping[Any, Any]
) -> _compat.ClosedJaxpr | None:
    """A trace with the loops of either side as one; None where that cannot be.

    Args:
        closed: the trace.
        sides: which.
        view: variables of the whole batch -> its own; those that are missing are its own.
    """
    jaxpr = closed.jaxpr
    numbers, value = kinds_of_layers(
        [k + 1 for k, n in enumerate(sides[0].lengths) for _ in range(n)]
    )
    replaced = {i: side for side in sides for i in side.loops}
    if any(jaxpr.eqns[i].params["jaxpr"].consts for i in replaced):
        return None
    units, stacks = list[Unit](), list[list[Any]]()
    ends = {max(side.loops): side for side in sides}
    for i, eqn in enumerate(jaxpr.eqns):
        if i not in replaced:
            units.append(Unit.of([eqn]))
        if i in ends:
            loop = _Loop(ends[i], [jaxpr.eqns[k] for k in ends[i].loops], view, numbers)
            stacks.append(loop.stacks)
            units.append(Unit.of(loop.eqns(stacks[0] if len(stacks) > 1 else [])))
    eqns = in_order(units, {*jaxpr.constvars, *jaxpr.invars, numbers})
    if eqns is None:
        return None
    constvars = [*jaxpr.constvars, numbers]
    whole = _compat.new_jaxpr(jaxpr, constvars, jaxpr.invars, jaxpr.outvars, eqns)
    return _compat.without_dead_code(_compat.ClosedJaxpr(whole, [*closed.consts, value]))


class _Loop:
    """The loops of one side, as one, in one of the traces.

    Args:
        side: what they have in common, in terms of the whole batch.
        loops: they.
        view: variables of the whole batch -> of the trace.
        numbers: the variable that holds the kinds of layers.

    Attributes:
        stacks: variables for the stacks that it makes.
    """

    def __init__(
        self,
        side: _Side,
        loops: Sequence[_compat.JaxprEqn],
        view: Mapping[Any, Any],
        numbers: Any,
    ) -> None:
        self.side, self.loops, self.view, self.numbers = side, loops, view, numbers
        self.length = sum(side.lengths)
        self.info, self.like = loops[0].source_info, loops[0]
        self.stacks = [_compat.new_var(self._row(v, self.length)) for v in side.made]

    def own(self, v: Any) -> Any:
        """A variable of the trace, or a literal."""
        return v if isinstance(v, _compat.Literal) else self.view.get(v, v)

    def _row(self, v: Any, rows: int | None = None) -> Any:
        """The type of a row of a stack, or of so many."""
        aval = self.own(v).aval
        return aval.update(shape=aval.shape[1:] if rows is None else (rows, *aval.shape[1:]))

    def eqns(self, kept: Sequence[Any]) -> list[_compat.JaxprEqn]:
        """It, the stacks that it reads, and those of the loops as parts of those that it makes.

        Args:
            kept: stacks that the other side makes.
        """
        side, eqns, operands = self.side, list[_compat.JaxprEqn](), list[Any]()
        for rows in side.rows:
            stack = _compat.new_var(self._row(next(iter(rows.values())), self.length))
            places = sorted(rows)

            def join(*values: Any, places: Sequence[int] = places) -> list[Any]:
                known = dict(zip(places, values, strict=True))
                # A layer that has none takes another's: it does not look at it.
                return [
                    jnp.concatenate(
                        [
                            known[p]
                            if p in known
                            else jnp.broadcast_to(values[0][:1], (n, *values[0].shape[1:]))
                            for p, n in enumerate(side.lengths)
                        ]
                    )
                ]

            eqns += traced(join, [self.own(rows[p]) for p in places], [stack], self.info)
            operands.append(stack)
        eqns.append(
            scan(
                self._body(kept),
                [self.own(v) for v in side.consts],
                [self.own(begin) for begin, _ in side.carries],
                [self.numbers, *operands, *kept],
                [*(self.own(end) for _, end in side.carries), *self.stacks],
                self.length,
                side.reverse,
                self.like,
                self.info,
            )
        )
        first = 0
        for p, n in enumerate(side.lengths):
            for v, slot in side.stacks_of(p):
                begin, end = first, first + n
                part = traced(
                    lambda stack, begin=begin, end=end: [stack[begin:end]],
                    [self.stacks[slot]],
                    [self.own(v)],
                    self.info,
                )
                eqns += part
            first += n
        return eqns

    def _body(self, kept: Sequence[Any]) -> _compat.ClosedJaxpr:
        """A trip: the switch over the bodies of the loops."""
        side = self.side
        types = [
            *(self.own(v).aval for v in side.consts),
            *(self.own(begin).aval for begin, _ in side.carries),
            *(self._row(next(iter(rows.values()))) for rows in side.rows),
            *(v.aval.update(shape=v.aval.shape[1:]) for v in kept),
        ]
        operands = [_compat.new_var(aval) for aval in types]
        which = _compat.new_var(self.numbers.aval.update(shape=()))
        carries = [self.own(begin).aval for begin, _ in side.carries]
        made = [_compat.new_var(aval) for aval in (*carries, *map(self._row, side.made))]
        branches = [self._branch(types, p) for p in (None, *range(len(self.loops)))]
        chosen = switch(branches, which, operands, made, self.like, self.info)
        at = len(side.consts) + len(side.carries)
        return jaxpr_of([*operands[:at], which, *operands[at:]], made, [chosen])

    def _branch(self, types: Sequence[Any], p: int | None) -> _compat.ClosedJaxpr:
        """The body of a loop, for the operands of all; of no layer, with None."""
        side = self.side
        arguments = [_compat.new_var(aval) for aval in types]
        carry = len(side.consts)
        rows = arguments[carry + len(side.carries) :]
        results = arguments[carry : carry + len(side.carries)]
        stacks, eqns = dict[int, Any](), list[_compat.JaxprEqn]()
        if p is not None:
            eqn, body = self.loops[p], self.loops[p].params["jaxpr"].jaxpr
            n_carry = _compat.scan_counts(eqn.params)[1]
            consts = [arguments[k] for k in side.places[p]]
            carried = [results[c] for c in side.carried[p]]
            slices = [
                rows[slot] if slot >= 0 else rows[len(side.rows) - 1 - slot]
                for slot in side.read[p]
            ]
            env: Env = dict(zip(body.invars, [*consts, *carried, *slices], strict=True))
            eqns = renamed(body.eqns, env)
            outs: list[Any] = [atom(env, v) for v in body.outvars]
            results = [*results]
            for c, out in zip(side.carried[p], outs, strict=False):
                results[c] = out
            stacks = dict(zip(side.makes[p], outs[n_carry:], strict=True))
        for slot, v in enumerate(side.made):
            if slot not in stacks:
                stacks[slot], more = zeros(self._row(v), self.info)
                eqns += more
        results = [*results, *(stacks[s] for s in sorted(stacks))]
        return inlined(jaxpr_of(arguments, results, eqns), remat=True)
