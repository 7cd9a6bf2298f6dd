"""From a loop over layers to its mirror image: what a microbatch can go through by itself.

All microbatches need not have gone forward before the first goes back, if what lies between (the
last layers, the loss, where its gradient begins) treats every example by itself: then one
microbatch may go all the way, and what it kept for the way back is free again. Sums over the batch
(the loss, gradients of what comes after the layers) are added up over microbatches; what reads such
a sum is done afterwards, and must not be needed on the way back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoshard import _compat
from autoshard.errors import MicrobatchError, PipelineError
from autoshard.rules.registry import rule_for
from autoshard.trace.batch import Part, State
from autoshard.trace.loop import Between, Dealt, Loop, Passing, operand_state
from autoshard.trace.microbatch import folds
from autoshard.trace.source import user_line
from autoshard.trace.walk import view

_Pair = tuple[_compat.JaxprEqn, _compat.JaxprEqn]


def between_of(
    pairs: list[_Pair],
    outvars: list[Any],
    dealt: Dealt,
    loops: Mapping[int, Loop],
    backward: int,
    zeros: set[Any],
) -> Between:
    """What lies between a loop and its mirror image.

    Args:
        pairs: all equations, of the whole batch and of a smaller one.
        outvars: results of the whole batch's.
        dealt: how examples are dealt out.
        loops: those over layers, by the index of their equation.
        backward: the index of the mirror image's.
        zeros: variables that are zeros by definition.

    Raises:
        PipelineError: a microbatch cannot go through it by itself; says which line is in the way.
    """
    forward = _mirror_of(pairs, loops, backward)
    found = _Found(pairs, dealt, loops, forward, backward, zeros)
    for index in range(forward + 1, len(pairs)):
        if index != backward:
            found.place(index)
        else:
            found.late.update(pairs[index][0].outvars)
    shared = found.shared()
    feeds = frozenset(found.feeds(shared))
    early = found.early()
    here_only = frozenset(found.here)
    eqns = (*early, *(found.merged[i] for i in sorted(found.here)))
    reads, leaves = found.reads(eqns), found.leaves(outvars)
    return Between(forward, eqns, here_only, reads, feeds, shared, leaves)


def _mirror_of(pairs: list[_Pair], loops: Mapping[int, Loop], backward: int) -> int:
    loop = loops[backward]
    kept = {loop.big.invars[k] for k in loop.ticked}
    makers = [i for i, (x, _) in enumerate(pairs) if i in loops and kept.intersection(x.outvars)]
    if len(makers) != 1:
        raise PipelineError("it reads what several loops over layers kept")
    return makers[0]


@dataclass
class _Found:
    """What is found so far.

    Attributes:
        states: of variables that a microbatch makes by itself.
        twins: of variables of the whole batch, the same of the smaller one.
        late: variables that are known only after all microbatches.
        here: indices of the equations that a microbatch goes through.
        merged: by index, an equation of the whole batch and the one of a microbatch.
    """

    pairs: list[_Pair]
    dealt: Dealt
    loops: Mapping[int, Loop]
    forward: int
    backward: int
    zeros: set[Any]
    states: dict[Any, State] = field(default_factory=dict)
    twins: dict[Any, Any] = field(default_factory=dict)
    late: set[Any] = field(default_factory=set)
    here: list[int] = field(default_factory=list)
    merged: dict[int, _Pair] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for x, y in self.pairs:
            self.twins.update(zip(x.outvars, y.outvars, strict=True))
            self.twins.update(
                (v, w)
                for v, w in zip(x.invars, y.invars, strict=True)
                if not isinstance(v, _compat.Literal)
            )
        loop = self.loops[self.forward]
        n_carry = _compat.scan_counts(loop.big.params)[1]
        for k, (var, state) in enumerate(zip(loop.big.outvars, loop.outs, strict=True)):
            if k < n_carry and state.part is Part.SPLIT:
                self.states[var] = state
            else:
                self.late.add(var)

    def place(self, index: int) -> None:
        """Whether an equation belongs here, is done before, or afterwards."""
        big, _ = self.pairs[index]
        reads = _variables(big)
        if not any(v in self.states or v in self.late for v in reads):
            return
        if index in self.loops or any(v in self.late for v in reads) or not self._step(index):
            self.late.update(big.outvars)

    def _step(self, index: int) -> bool:
        made = self._stepped(index)
        if made is None or any(s.is_same or s.part is Part.WHOLE for s in made):
            return False
        self.states.update(zip(self.pairs[index][0].outvars, made, strict=True))
        self.here.append(index)
        return True

    def _stepped(self, index: int) -> list[State] | None:
        """States of an equation's results; None where a microbatch cannot make them by itself."""
        big, small = self.pairs[index]
        self.dealt.numbered.clear()
        try:
            states = [self._state(v, w, big) for v, w in zip(big.invars, small.invars, strict=True)]
            if any(s.part is Part.SUM for s in states) and not folds(big, states):
                return None
            made, merged = self.dealt.step(big, small, states)
        except MicrobatchError:
            return None
        if self.dealt.numbered:
            return None
        self.merged[index] = (big, merged)
        return made

    def _state(self, value: Any, small: Any, eqn: _compat.JaxprEqn) -> State:
        if not isinstance(value, _compat.Literal) and value in self.states:
            return self.states[value]
        return operand_state(value, self.dealt.split_dim(value, small, eqn), self.zeros)

    # -- what the mirror image reads -------------------------------------------------------------

    def shared(self) -> dict[int, int]:
        """Operands that are stacks which the loop makes of its layers alone; to its results."""
        there, back = self.loops[self.forward], self.loops[self.backward]
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

    def feeds(self, shared: Collection[int]) -> Iterator[int]:
        """Operands of the mirror image that a microbatch makes.

        Raises:
            PipelineError: it reads what is known after all microbatches only.
        """
        loop = self.loops[self.backward]
        m, found = sum(_compat.scan_counts(loop.big.params)), False
        makers = {v: eqn for eqn, _ in self.pairs for v in eqn.outvars}
        for k, v in enumerate(loop.big.invars):
            if k in loop.ticked or k in shared or isinstance(v, _compat.Literal):
                continue
            state = self.states.get(v)
            if v in self.late or (state is not None and (state.part is not Part.SPLIT or k >= m)):
                raise PipelineError(
                    "the way back through the layers needs what is known only after all"
                    f" microbatches ({user_line(makers[v])})"
                )
            if state is not None:
                found = True
                yield k
        if not found:
            raise PipelineError("the way back through the layers does not begin where they end")

    # -- what is made before ---------------------------------------------------------------------

    def early(self) -> list[_Pair]:
        """Work on the batch alone, short of matmuls: a microbatch's part of it is done here too.

        A mask, or a row as wide as the vocabulary for every token, is then never there for all.
        """
        needed = {v for i in self.here for v in _variables(self.pairs[i][0])}
        early = []
        for index in range(self.backward - 1, -1, -1):
            big, _ = self.pairs[index]
            if index in self.here or index in self.loops or not needed.intersection(big.outvars):
                continue
            late = any(v in self.late for v in big.outvars)
            if late or rule_for(view(big)).op_class.is_matrix:
                continue
            made = self._stepped(index)
            if made is None or any(s.part is not Part.SPLIT for s in made):
                continue
            early.append(self.merged[index])
            needed.update(_variables(big))
        return early[::-1]

    # -- what comes in and goes out --------------------------------------------------------------

    def reads(self, eqns: tuple[_Pair, ...]) -> tuple[Passing, ...]:
        """What is known before."""
        made = {v for big, _ in eqns for v in big.outvars}
        carried = set(self.loops[self.forward].big.outvars)
        found = dict[Any, Passing]()
        for big, small in eqns:
            for v, w in zip(big.invars, small.invars, strict=True):
                if not isinstance(w, _compat.Literal) and v not in made and v not in carried:
                    found[w] = Passing(w, v, self._state(v, self.twins[v], big))
        return tuple(found.values())

    def leaves(self, outvars: list[Any]) -> tuple[Passing, ...]:
        """What is read afterwards."""
        here = set(self.here)
        read = {v for v in outvars if not isinstance(v, _compat.Literal)}
        for index, (big, _) in enumerate(self.pairs):
            if index not in here and index != self.backward:
                read.update(_variables(big))
        made = [v for i in self.here for v in self.pairs[i][0].outvars if v in read]
        return tuple(Passing(self.twins[v], v, self.states[v]) for v in made)


def _variables(eqn: _compat.JaxprEqn) -> list[Any]:
    return [v for v in eqn.invars if not isinstance(v, _compat.Literal)]
