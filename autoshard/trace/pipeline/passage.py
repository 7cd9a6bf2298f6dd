"""From before a loop over layers to after its mirror image: one microbatch's way, by itself.

All microbatches need not have gone forward before the first goes back, if what lies between (the
last layers, the loss, where its gradient begins) treats every example by itself: then one
microbatch may go all the way, and what it kept for the way back is free again. Sums over the batch
(the loss, gradients of what comes after the layers) are added up over microbatches; what reads such
a sum is done afterwards, and must not be needed on the way back.

What comes before the loop and only makes a microbatch's input from less (an embedding), and what
comes of its gradient, is done on the way too, so that neither is there for the whole batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoshard import _compat
from autoshard.errors import MicrobatchError, PipelineError
from autoshard.rules.registry import rule_for
from autoshard.trace.batch import Part, State
from autoshard.trace.microbatch import folds
from autoshard.trace.pipeline.loop import Dealt, Loop, Passage, Passing, Way, operand_state
from autoshard.trace.source import user_line
from autoshard.trace.surgery import size_bytes_of, variables
from autoshard.trace.walk import view

_Pair = tuple[_compat.JaxprEqn, _compat.JaxprEqn]


def passage_of(step: Step, backward: int) -> Passage:
    """What one microbatch goes through from a loop to its mirror image.

    Args:
        step: all of it.
        backward: the index of the mirror image's equation.

    Raises:
        PipelineError: a microbatch cannot go through it by itself; says which line is in the way.
    """
    forward = _mirror_of(step, backward)
    there, back = step.loops[forward], step.loops[backward]
    carried, others = _results(there)
    between = _Region(step, carried, others | set(back.big.outvars))
    for index in range(forward + 1, len(step.pairs)):
        if index != backward:
            between.place(index)
    shared = _shared(there, back)
    feeds = frozenset(_feeds(step, between, back, shared))
    carried, others = _results(back)
    known_late = others | set(there.big.outvars) | between.made
    after = _Region(step, carried, known_late)
    for index in range(forward + 1, len(step.pairs)):
        if index != backward and index not in between.here:
            after.place(index)
    given, eqns = _given(step, there, forward)
    here = {*between.here, *after.here}
    before = Way(eqns, frozenset(), step.reads(eqns), ())
    inner, outer = (region.way(here, backward) for region in (between, after))
    return Passage(forward, before, inner, outer, given, feeds, shared)


@dataclass(frozen=True)
class Step:
    """A step, as it is looked through.

    Attributes:
        pairs: equations of the whole batch and of a smaller one.
        outvars: results of the whole batch's.
        dealt: how examples are dealt out.
        loops: those over layers, by the index of their equation.
        zeros: variables that are zeros by definition.
        twins: of variables of the whole batch, the same of the smaller one.
    """

    pairs: list[_Pair]
    outvars: list[Any]
    dealt: Dealt
    loops: Mapping[int, Loop]
    zeros: set[Any]
    twins: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for x, y in self.pairs:
            self.twins.update(zip(x.outvars, y.outvars, strict=True))
            self.twins.update(
                (v, w)
                for v, w in zip(x.invars, y.invars, strict=True)
                if not isinstance(v, _compat.Literal)
            )

    def state(self, value: Any, small: Any, eqn: _compat.JaxprEqn) -> State:
        """What becomes of the batch in a value that is there for the whole batch.

        Raises:
            MicrobatchError: its shapes differ otherwise than a batch and its microbatch do.
        """
        return operand_state(value, self.dealt.split_dim(value, small, eqn), self.zeros)

    def stepped(
        self, index: int, known: Mapping[Any, State]
    ) -> tuple[list[State], _compat.JaxprEqn] | None:
        """States of an equation's results, and the equation of a microbatch.

        Returns:
            None where a microbatch cannot make them by itself.
        """
        big, small = self.pairs[index]
        self.dealt.numbered.clear()
        try:
            states = [
                known[v]
                if not isinstance(v, _compat.Literal) and v in known
                else self.state(v, w, big)
                for v, w in zip(big.invars, small.invars, strict=True)
            ]
            if any(s.part is Part.SUM for s in states) and not folds(big, states):
                return None
            made = self.dealt.step(big, small, states)
        except MicrobatchError:
            return None
        return None if self.dealt.numbered else made

    def made_of_less(
        self, wanted: Iterable[Any], until: int, never: Collection[Any] = frozenset()
    ) -> dict[int, _Pair]:
        """Work on the batch alone, short of matmuls, that a microbatch can do by itself.

        A mask, or a row as wide as the vocabulary for every token, is then never there for all.

        Args:
            wanted: variables that it leads to.
            until: the index of the equation before which they must be there.
            never: variables that it must not make.

        Returns:
            By index and in order, an equation of the whole batch and what it is of a microbatch.
        """
        needed, found = set(wanted), dict[int, _Pair]()
        for index in range(until - 1, -1, -1):
            big, _ = self.pairs[index]
            if index in self.loops or not needed.intersection(big.outvars):
                continue
            if any(v in never for v in big.outvars) or rule_for(view(big)).op_class.is_matrix:
                continue
            made = self.stepped(index, {})
            if made is not None and all(s.part is Part.SPLIT for s in made[0]):
                found[index] = (big, made[1])
                needed.update(variables(big))
        return dict(sorted(found.items()))

    def reads(
        self, eqns: Iterable[_Pair], known: Collection[Any] = frozenset()
    ) -> tuple[Passing, ...]:
        """What equations of a microbatch read of what is there before."""
        eqns = tuple(eqns)
        made = {v for big, _ in eqns for v in big.outvars}
        found = dict[Any, Passing]()
        for big, small in eqns:
            for v, w in zip(big.invars, small.invars, strict=True):
                if not isinstance(w, _compat.Literal) and v not in made and v not in known:
                    found[w] = Passing(w, v, self.state(v, self.twins[v], big))
        return tuple(found.values())


def _results(loop: Loop) -> tuple[dict[Any, State], set[Any]]:
    """What a loop hands on of every example, and its other results."""
    n_carry = _compat.scan_counts(loop.big.params)[1]
    carried, others = dict[Any, State](), set[Any]()
    for k, (var, state) in enumerate(zip(loop.big.outvars, loop.outs, strict=True)):
        if k < n_carry and state.part is Part.SPLIT:
            carried[var] = state
        else:
            others.add(var)
    return carried, others


def _mirror_of(step: Step, backward: int) -> int:
    loop = step.loops[backward]
    kept = {loop.big.invars[k] for k in loop.ticked}
    makers = [i for i in step.loops if kept.intersection(step.pairs[i][0].outvars)]
    if len(makers) != 1:
        raise PipelineError("the way back through the layers reads what several loops kept")
    return makers[0]


class _Region:
    """What a microbatch does by itself with what a loop hands on.

    Args:
        step: all of it.
        carried: what the loop hands on.
        late: variables that are known only after all microbatches.
    """

    def __init__(self, step: Step, carried: Mapping[Any, State], late: set[Any]) -> None:
        self.step, self.carried, self.late = step, carried, late
        self.states = dict(carried)
        self.here: dict[int, _Pair] = {}

    @property
    def made(self) -> set[Any]:
        """Variables that it makes."""
        return {v for big, _ in self.here.values() for v in big.outvars}

    def place(self, index: int) -> None:
        """Whether an equation belongs here, is done before, or afterwards."""
        big, _ = self.step.pairs[index]
        reads = variables(big)
        if not any(v in self.states or v in self.late for v in reads):
            return
        if index in self.step.loops or any(v in self.late for v in reads):
            self.late.update(big.outvars)
            return
        made = self.step.stepped(index, self.states)
        if made is None or any(s.is_same or s.part is Part.WHOLE for s in made[0]):
            self.late.update(big.outvars)
            return
        self.states.update(zip(big.outvars, made[0], strict=True))
        self.here[index] = (big, made[1])

    def way(self, everywhere: Collection[int], backward: int) -> Way:
        """It all, with what leads to it.

        Args:
            everywhere: indices of equations that are done for no whole batch.
            backward: the index before which all must be there that is read.
        """
        wanted = {v for big, _ in self.here.values() for v in variables(big)}
        early = self.step.made_of_less(wanted, backward, self.late | self.states.keys())
        eqns = (*early.values(), *self.here.values())
        read = {v for v in self.step.outvars if not isinstance(v, _compat.Literal)}
        for index, (big, _) in enumerate(self.step.pairs):
            if index not in everywhere and index != backward:
                read.update(variables(big))
        leaves = tuple(
            Passing(self.step.twins[v], v, self.states[v])
            for big, _ in self.here.values()
            for v in big.outvars
            if v in read
        )
        return Way(eqns, frozenset(self.here), self.step.reads(eqns, self.carried), leaves)


def _shared(there: Loop, back: Loop) -> dict[int, int]:
    """Operands that are stacks which the loop makes of its layers alone; to its results."""
    n_carry = _compat.scan_counts(there.big.params)[1]
    m = sum(_compat.scan_counts(back.big.params))
    made: dict[Any, int] = {
        v: k
        for k, (v, state) in enumerate(zip(there.big.outvars, there.outs, strict=True))
        if k >= n_carry and state.is_same
    }
    return {
        k: made[v]
        for k, v in enumerate(back.big.invars)
        if k >= m and not isinstance(v, _compat.Literal) and v in made
    }


def _feeds(step: Step, between: _Region, back: Loop, shared: Collection[int]) -> Iterator[int]:
    """Operands of the mirror image that a microbatch makes.

    Raises:
        PipelineError: it reads what is known after all microbatches only.
    """
    m, found = sum(_compat.scan_counts(back.big.params)), False
    makers = {v: eqn for eqn, _ in step.pairs for v in eqn.outvars}
    for k, v in enumerate(back.big.invars):
        if k in back.ticked or k in shared or isinstance(v, _compat.Literal):
            continue
        state = between.states.get(v)
        if v in between.late or (state is not None and (state.part is not Part.SPLIT or k >= m)):
            raise PipelineError(
                "the way back through the layers needs what is known only after all microbatches"
                f" ({user_line(makers[v])})"
            )
        if state is not None:
            found = True
            yield k
    if not found:
        raise PipelineError("the way back through the layers does not begin where they end")


def _given(step: Step, there: Loop, forward: int) -> tuple[frozenset[int], tuple[_Pair, ...]]:
    """Operands of the loop that a microbatch makes of what is smaller, and what makes them."""
    given, work = set[int](), dict[int, _Pair]()
    for k in range(sum(_compat.scan_counts(there.big.params))):
        v = there.big.invars[k]
        if there.ins[k].part is not Part.SPLIT or k in there.spread:
            continue
        found = step.made_of_less([v], forward)
        if not any(v in big.outvars for big, _ in found.values()):
            continue
        reads = (x for x in step.reads(found.values()) if x.state.part is Part.SPLIT)
        if sum(size_bytes_of(x.big) for x in reads) < size_bytes_of(v):
            given.add(k)
            work.update(found)
    return frozenset(given), tuple(work[i] for i in sorted(work))
