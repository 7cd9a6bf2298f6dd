"""Unrolled layers as loops: equal layers written one after the other become one `scan`.

A model that keeps its layers in a list leaves their equations one layer after the other, forward
and then backward. Where equations repeat themselves (`repeats`), that they are layers is proven
from the data flow: column by column, what an equation reads in one trip is what it reads in every
other, or what the trip before has made, or an operand of each trip's own.

The loops look as if the model had been written with `lax.scan` and differentiated: operands of each
trip's own are stacked (weights, keys), results that something else reads are stacked too
(gradients, and what the backward layers read of the forward ones), and backward layers read those
stacks slice by slice, from the last to the first. What cannot be proven is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from autoshard import _compat
from autoshard.trace.pipeline.repeats import Run, is_literal, multiplies, params_of, stretches
from autoshard.trace.pipeline.written import jaxpr_of, scan, slices_of, stacked, traced
from autoshard.trace.source import user_line
from autoshard.trace.surgery import Env, atom, inlined, readers

Reads = Mapping[Any, Sequence[tuple[int | None, int]]]
Values = tuple[Any, ...]


def rolled(
    closed: _compat.ClosedJaxpr, runs: Sequence[Run] | None = None
) -> tuple[_compat.ClosedJaxpr, tuple[str, ...]]:
    """The program with unrolled layers as loops.

    Args:
        closed: any program.
        runs: where its layers are, as `runs_of` found them in a program that differs from it in
            nothing but sizes; looked for where not given.

    Returns:
        The program, inlined, and a line for each place with such layers; the program as it was,
        and nothing.
    """
    flat = inlined(closed)
    if runs is None:
        runs = _found(flat)
    rolling = _rolling(flat, runs)
    paired = rolling.paired()
    if paired and len(paired) < len(rolling.loops):
        # Beside layers and their backward layers, what else repeats itself is by chance.
        rolling = _rolling(flat, paired)
    if not rolling.loops:
        return closed, ()
    return _compat.without_dead_code(rolling.run()), tuple(dict.fromkeys(rolling.notes()))


def _rolling(flat: _compat.ClosedJaxpr, runs: Sequence[Run]) -> _Rolling:
    eqns, reads, alias = flat.jaxpr.eqns, readers(flat.jaxpr), dict[Any, Any]()
    proven = [_proven(eqns, run, reads, alias) for run in sorted(runs)]
    return _Rolling(flat, [x for x in proven if x is not None], alias)


def runs_of(closed: _compat.ClosedJaxpr) -> tuple[Run, ...]:
    """Where a program's unrolled layers are, by the equations of its inlined form."""
    return _found(inlined(closed))


def _found(flat: _compat.ClosedJaxpr) -> tuple[Run, ...]:
    eqns, reads = flat.jaxpr.eqns, readers(flat.jaxpr)
    taken: dict[Run, Iterator[Run]] = {}
    for stretch in stretches(eqns):
        if not any(stretch.run.overlaps(run) for run in taken):
            cuts = (run for run in stretch.cuts(eqns) if _proven(eqns, run, reads, {}))
            run = next(cuts, None)
            if run is not None and not any(run.overlaps(other) for other in taken):
                taken[run] = cuts
    return _aligned(flat, taken)


def _aligned(flat: _compat.ClosedJaxpr, found: Mapping[Run, Iterator[Run]]) -> tuple[Run, ...]:
    """Runs, cut so that what a layer keeps for the way back is of one trip, as far as that goes.

    Layers often can be cut in several places: behind what is linear, or behind what is not. Cut
    here on the way there and elsewhere on the way back, a trip back reads what two trips made.

    Args:
        flat: the program.
        found: runs, and other ways to cut what is there.
    """
    best = sorted(found)
    strays = _rolling(flat, best).strays()
    for first, others in found.items():
        rest, own = [run for run in best if run != first], first
        for other in others if strays else ():
            if any(other.overlaps(run) for run in rest):
                continue
            left = _rolling(flat, [*rest, other]).strays()
            if left < strays:
                own, strays = other, left
        best = sorted([*rest, own])
    return tuple(best)


# -- what layers read ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Same:
    """An operand that is one and the same in all trips."""

    value: Any


@dataclass(frozen=True)
class Made:
    """An operand that the same trip has made: a result of one of its columns."""

    column: int
    result: int


@dataclass(frozen=True)
class Carried:
    """An operand that the trip before has made; `first` is what the first trip reads."""

    made: Made
    first: Any

    @property
    def key(self) -> Hashable:
        """What equal ones share."""
        return self.made, _key([self.first])


@dataclass(frozen=True)
class Own:
    """An operand of each trip's own, by trip."""

    values: Values


Source = Same | Made | Carried | Own


def _key(values: Sequence[Any]) -> Hashable:
    """What equal rows of variables and literals share."""
    return tuple((repr(v.val), str(v.aval)) if is_literal(v) else v for v in values)


@dataclass(frozen=True)
class _Layers:
    """Equal layers, one after the other.

    Attributes:
        run: where.
        trips: the equations of each.
        sources: what each column reads, by operand.
        apart: columns that stand in front of the loop, once for each trip: they differ in
            parameters, and nothing of the trips before goes into them.
        common: columns that stand in front of it, once for all: they are the same in each trip,
            and something else reads them.
    """

    run: Run
    trips: tuple[Sequence[_compat.JaxprEqn], ...]
    sources: tuple[tuple[Source, ...], ...]
    apart: frozenset[int]
    common: frozenset[int]

    @property
    def columns(self) -> list[int]:
        """Those that stay inside."""
        return [j for j in range(self.run.period) if j not in self.apart | self.common]

    def row(self, made: Made) -> Values:
        """A result of a column, by trip."""
        return tuple(trip[made.column].outvars[made.result] for trip in self.trips)


def _proven(eqns: Sequence[_compat.JaxprEqn], run: Run, reads: Reads, alias: Env) -> _Layers | None:
    """The layers that a run of equations is; None where it is none.

    Args:
        eqns: of the whole program.
        run: which.
        reads: from `readers`.
        alias: variables -> the equal ones to read instead; those of the layers are added.
    """
    starts = range(run.start, run.end, run.period)
    trips = tuple(eqns[start : start + run.period] for start in starts)
    columns = [*zip(*trips, strict=True)]
    if not all(map(_alike, columns)):
        return None
    made = {
        v: (t, Made(j, r))
        for t, trip in enumerate(trips)
        for j, eqn in enumerate(trip)
        for r, v in enumerate(eqn.outvars)
    }
    sources: list[tuple[Source, ...]] = []
    for column in columns:
        operands = zip(*(eqn.invars for eqn in column), strict=True)
        found = [_source(values, made, alias) for values in operands]
        sources.append(tuple(source for source in found if source is not None))
        if len(sources[-1]) < len(found):
            return None
    differing = {j for j, eqns in enumerate(columns) if len({*map(params_of, eqns)}) > 1}
    apart = _upstream(sources, differing)
    if any(isinstance(source, Carried) for j in apart for source in sources[j]):
        return None
    read_outside = {
        j
        for j in _invariant(sources, differing) - apart
        if any(_is_read_outside(v, run, reads) for eqn in columns[j] for v in eqn.outvars)
    }
    common = _upstream(sources, read_outside) - apart
    layers = _Layers(run, trips, tuple(sources), frozenset(apart), frozenset(common))
    return _settled(layers, alias)


def _alike(column: Sequence[_compat.JaxprEqn]) -> bool:
    """Whether equations are the same but for their parameters and what they read."""
    first, *others = column
    return not first.effects and all(
        eqn.primitive is first.primitive
        and not eqn.effects
        and (eqn.ctx is first.ctx or repr(eqn.ctx) == repr(first.ctx))
        and [v.aval for v in eqn.invars] == [v.aval for v in first.invars]
        and [v.aval for v in eqn.outvars] == [v.aval for v in first.outvars]
        for eqn in others
    )


def _source(values: Values, made: Mapping[Any, tuple[int, Made]], alias: Env) -> Source | None:
    """What an operand is, by what it is in every trip; None where trips differ."""
    places = [None if is_literal(v) else made.get(v) for v in values]
    if not any(places):
        atoms = tuple(atom(alias, v) for v in values)
        return Same(atoms[0]) if len({_key([v]) for v in atoms}) == 1 else Own(atoms)
    begin, *later = places
    found = {(place[0] - t, place[1]) for t, place in enumerate(later, 1) if place is not None}
    if len(found) != 1 or None in later:
        return None
    ((back, what),) = found
    if back == 0 and begin == (0, what):
        return what
    if back == -1 and begin is None and values[0].aval == values[1].aval:
        return Carried(what, atom(alias, values[0]))
    return None


def _upstream(sources: Sequence[Sequence[Source]], columns: set[int]) -> set[int]:
    """Columns, and those whose results go into them in the same trip."""
    found = set(columns)
    for j in reversed(range(len(sources))):
        if j in found:
            found.update(source.column for source in sources[j] if isinstance(source, Made))
    return found


def _downstream(sources: Sequence[Sequence[Source]]) -> set[int]:
    """Columns into which something goes that the trip before has made."""
    found: set[int] = set()
    for j, reads in enumerate(sources):
        known = (
            isinstance(s, Carried) or (isinstance(s, Made) and s.column in found) for s in reads
        )
        if any(known):
            found.add(j)
    return found


def _invariant(sources: Sequence[Sequence[Source]], differing: set[int]) -> set[int]:
    """Columns that make the same in every trip."""
    found: set[int] = set()
    for j, reads in enumerate(sources):
        known = (isinstance(s, Same) or (isinstance(s, Made) and s.column in found) for s in reads)
        if j not in differing and all(known):
            found.add(j)
    return found


def _is_read_outside(var: Any, run: Run, reads: Reads) -> bool:
    return any(i is None or not run.start <= i < run.end for i, _ in reads.get(var, ()))


def _settled(layers: _Layers, alias: Env) -> _Layers | None:
    """The layers, with what stands in front of the loop as operands of it; None without a chain."""
    sources = [*layers.sources]
    for j in layers.columns:
        sources[j] = tuple(_from_outside(source, layers) for source in sources[j])
    inside = [source for j in layers.columns for source in sources[j]]
    carried = [source.made.column for source in inside if isinstance(source, Carried)]
    stacked = any(
        isinstance(source, Own) and not all(map(is_literal, source.values)) for source in inside
    )
    if not stacked or not set(carried) <= set(layers.columns):
        return None
    # What is only added up from trip to trip is no chain of layers.
    if not any(multiplies(layers.trips[0][j]) for j in _downstream(sources)):
        return None
    for j in layers.common:
        for trip in layers.trips[1:]:
            alias.update(zip(trip[j].outvars, layers.trips[0][j].outvars, strict=True))
    return replace(layers, sources=tuple(sources))


def _from_outside(source: Source, layers: _Layers) -> Source:
    if isinstance(source, Made) and source.column in layers.apart:
        return Own(layers.row(source))
    if isinstance(source, Made) and source.column in layers.common:
        return Same(layers.row(source)[0])
    return source


# -- the loops -----------------------------------------------------------------------------------


class _Loop:
    """Layers as the body of a loop.

    Args:
        layers: which.

    Attributes:
        consts, carries, own: by what tells them apart, operands and what the body calls them.
        inner: the body's own variable for each result.
        eqns: of the body.
        reverse: whether the last slices come first.
        operands: the stacks of `own`, in that order.
        fresh: stacks that are made for it, with what goes into them.
        place: an equation whose line speaks for the layers: the one with the fewest callers.
        stacks: variables of the body -> what holds them stacked outside.
    """

    def __init__(self, layers: _Layers) -> None:
        self.layers = layers
        self.consts: dict[Hashable, tuple[Any, Any]] = {}
        self.carries: dict[Hashable, tuple[Carried, Any]] = {}
        self.own: dict[Hashable, tuple[Values, Any]] = {}
        self.inner: dict[Made, Any] = {}
        self.eqns: list[_compat.JaxprEqn] = []
        self.reverse = False
        self.operands: list[Any] = []
        self.fresh: list[tuple[Values, Any]] = []
        self.stacks: dict[Any, Any] = {}
        self.place = min(layers.trips[0], key=lambda eqn: sum(1 for _ in _compat.user_frames(eqn)))
        for j in layers.columns:
            eqn = layers.trips[0][j]
            reads = [self._inside(source) for source in layers.sources[j]]
            made = [_compat.new_var(v.aval) for v in eqn.outvars]
            self.inner.update((Made(j, r), v) for r, v in enumerate(made))
            self.eqns.append(eqn.replace(invars=reads, outvars=made))

    def _inside(self, source: Source) -> Any:
        """What the body reads."""
        if isinstance(source, Made):
            return self.inner[source]
        if isinstance(source, Same):
            if is_literal(source.value):
                return source.value
            held = self.consts, _key([source.value]), source.value, source.value
        elif isinstance(source, Carried):
            held = self.carries, source.key, source, source.first
        else:
            held = self.own, _key(source.values), source.values, source.values[0]
        table, key, what, like = held
        return table.setdefault(key, (what, _compat.new_var(like.aval)))[1]

    def in_order(self, row: Values) -> Values:
        """What belongs to the trips, as it lies in a stack."""
        return row[::-1] if self.reverse else row

    def rows(self) -> Iterator[tuple[Values, Any]]:
        """What the loop could stack: values as they lie in the stack, and the body's variable."""
        for made, var in self.inner.items():
            yield self.in_order(self.layers.row(made)), var
        for carried, var in self.carries.values():
            yield self.in_order((carried.first, *self.layers.row(carried.made)[:-1])), var

    def stack(self, var: Any) -> Any:
        """What holds a variable of the body, stacked."""
        if var not in self.stacks:
            aval = _compat.stacked_aval(var.aval, self.layers.run.count)
            self.stacks[var] = _compat.new_var(aval)
        return self.stacks[var]

    def reads_outside(self) -> Iterator[Any]:
        """Variables and literals that are read in front of the loop, or by it."""
        yield from (v for eqn in self.before() for v in eqn.invars)
        yield from (value for value, _ in self.consts.values())
        yield from (carried.first for carried, _ in self.carries.values())
        yield from (value for row, _ in self.fresh for value in row)

    def before(self) -> Iterator[_compat.JaxprEqn]:
        """Equations that stand in front of the loop."""
        for trip in self.layers.trips:
            yield from (trip[j] for j in sorted(self.layers.apart))
        yield from (self.layers.trips[0][j] for j in sorted(self.layers.common))

    def written(self, wanted: set[Any]) -> Iterator[_compat.JaxprEqn]:
        """The loop, what is stacked for it, and the results apart that are wanted."""
        info = self._info()
        for row, stack in self.fresh:
            yield from traced(stacked, row, [stack], info)
        finals = [self.layers.row(carried.made)[-1] for carried, _ in self.carries.values()]
        ends: list[Any] = []
        for final in finals:
            free = final in wanted and final not in ends
            ends.append(final if free else _compat.new_var(final.aval))
        after: list[_compat.JaxprEqn] = []
        for made, var in self.inner.items():
            row = self.in_order(self.layers.row(made))
            slices = {i: v for i, v in enumerate(row) if v in wanted and v not in ends}
            if slices:
                taken = slices_of([*slices])
                after += traced(taken, [self.stack(var)], [*slices.values()], info)
        yield self._eqn(ends, info)
        yield from after

    def _info(self) -> Any:
        """The line of the layers, under the names that they were traced under themselves."""
        own = self.layers.trips[0][0].source_info
        return self.place.source_info.replace(name_stack=own.name_stack)

    def _eqn(self, ends: Sequence[Any], info: Any) -> _compat.JaxprEqn:
        held = [*self.consts.values()], [*self.carries.values()], [*self.own.values()]
        arguments = [var for part in held for _, var in part]
        results = [*(self.inner[carried.made] for carried, _ in held[1]), *self.stacks]
        return scan(
            jaxpr_of(arguments, results, self.eqns),
            [value for value, _ in held[0]],
            [carried.first for carried, _ in held[1]],
            self.operands,
            [*ends, *self.stacks.values()],
            self.layers.run.count,
            self.reverse,
            self.layers.trips[0][0],
            info,
        )


class _Rolling:
    """A program whose layers become loops.

    Args:
        flat: the program, inlined.
        layers: in order.
        alias: variables -> the equal ones to read instead.
    """

    def __init__(self, flat: _compat.ClosedJaxpr, layers: Sequence[_Layers], alias: Env) -> None:
        self.flat, self.alias = flat, alias
        self.loops = {x.run.start: _Loop(x) for x in layers}
        # What lies in a stack, in order -> the loop that has it, and what gives that stack.
        self.offers: dict[Hashable, tuple[_Loop, Callable[[], Any]]] = {}
        self.pairs: set[Run] = set()
        for loop in self.loops.values():
            self._link(loop)

    def paired(self) -> list[Run]:
        """The layers of which one reads the other's stacks, from the last to the first."""
        return sorted(self.pairs)

    def strays(self) -> int:
        """How many values that layers made are put into a new stack for other layers."""
        made = {v for x in self.loops.values() for row, _ in x.rows() for v in row}
        fresh = (v for x in self.loops.values() for row, _ in x.fresh for v in row)
        return sum(1 for v in fresh if not is_literal(v) and v in made)

    def _link(self, loop: _Loop) -> None:
        """Find the stacks that a loop reads among those that there are, in either direction."""
        rows = [values for values, _ in loop.own.values()]
        ahead, back = (sum(_key(row[::step]) in self.offers for row in rows) for step in (1, -1))
        loop.reverse = back > ahead
        for values in rows:
            row = loop.in_order(values)
            if _key(row) not in self.offers:
                fresh = _compat.new_var(_compat.stacked_aval(row[0].aval, loop.layers.run.count))
                loop.fresh.append((row, fresh))
                self.offers[_key(row)] = loop, partial(_given, fresh)
            other, stack = self.offers[_key(row)]
            loop.operands.append(stack())
            if loop.reverse and other is not loop:
                loop.place = other.place
                self.pairs |= {loop.layers.run, other.layers.run}
        for row, var in loop.rows():
            self.offers.setdefault(_key(row), (loop, partial(loop.stack, var)))

    def notes(self) -> Iterator[str]:
        """A line for each loop."""
        for loop in self.loops.values():
            yield (
                f"rolled: the {loop.layers.run.count} equal layers at {user_line(loop.place)} are"
                " one loop over their stacked weights"
            )

    def run(self) -> _compat.ClosedJaxpr:
        """The program with loops."""
        jaxpr = self.flat.jaxpr
        inside = {
            i for x in self.loops.values() for i in range(x.layers.run.start, x.layers.run.end)
        }
        results = [atom(self.alias, v) for v in jaxpr.outvars]
        wanted = {v for v in results if not is_literal(v)}
        kept = {i: self._read(eqn) for i, eqn in enumerate(jaxpr.eqns) if i not in inside}
        for reads in (
            *(eqn.invars for eqn in kept.values()),
            *(loop.reads_outside() for loop in self.loops.values()),
        ):
            wanted.update(v for v in (atom(self.alias, v) for v in reads) if not is_literal(v))
        eqns: list[_compat.JaxprEqn] = []
        for i in range(len(jaxpr.eqns)):
            if i in self.loops:
                eqns += map(self._read, self.loops[i].before())
                eqns += self.loops[i].written(wanted)
            elif i in kept:
                eqns.append(kept[i])
        whole = _compat.new_jaxpr(jaxpr, jaxpr.constvars, jaxpr.invars, results, eqns)
        return _compat.ClosedJaxpr(whole, self.flat.consts)

    def _read(self, eqn: _compat.JaxprEqn) -> _compat.JaxprEqn:
        renamed: _compat.JaxprEqn = eqn.replace(invars=[atom(self.alias, v) for v in eqn.invars])
        return renamed


def _given(value: Any) -> Any:
    return value
