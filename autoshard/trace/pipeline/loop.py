"""A loop over layers as a pipeline sees it: what becomes of the batch in it, and next to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autoshard import _compat
from autoshard.errors import MicrobatchError
from autoshard.trace.batch import SAME, ZERO, Batch, Part, State, state_of


@dataclass(frozen=True)
class Dealt(Batch):
    """Microbatches whose loops know which examples they hold.

    Attributes:
        numbered: results that are made for every example by number (random bits, counters), as
            the small trace calls them -> the equation.
    """

    numbered: dict[Any, _compat.JaxprEqn] = field(default_factory=dict, compare=False)

    def _made(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
    ) -> list[State]:
        dims = [self.split_dim(x, y, big) for x, y in zip(big.outvars, small.outvars, strict=True)]
        try:
            return super()._made(big, small, states)
        except MicrobatchError:
            self.numbered.update((y, big) for y in small.outvars)
            return [SAME if d is None else State(Part.SPLIT, d) for d in dims]


@dataclass(frozen=True)
class Passing:
    """A value that passes between a microbatch's way and what is done for the whole batch.

    Attributes:
        small: the variable of a microbatch.
        big: the same of the whole batch.
        state: what becomes of the batch in it.
    """

    small: Any
    big: Any
    state: State


@dataclass(frozen=True)
class Way:
    """Work that a microbatch does by itself.

    Attributes:
        eqns: of the whole batch and of a microbatch, in order.
        here_only: the indices of those that need not be done for the whole batch as well.
        reads: what is known before.
        leaves: what is read afterwards.
    """

    eqns: tuple[tuple[_compat.JaxprEqn, _compat.JaxprEqn], ...]
    here_only: frozenset[int]
    reads: tuple[Passing, ...]
    leaves: tuple[Passing, ...]


@dataclass(frozen=True)
class Passage:
    """What one microbatch goes through, from a loop over layers to its mirror image.

    Attributes:
        forward: the index of the loop's equation.
        before: makes operands of the loop.
        between: from the end of the loop to the beginning of its mirror image.
        after: from the end of that.
        given: operands of the loop that are made before.
        feeds: operands of the mirror image that a microbatch makes between, or in the loop.
        shared: those that are stacks which the loop makes of its layers, whatever the batch -> the
            loop's result.
    """

    forward: int
    before: Way
    between: Way
    after: Way
    given: frozenset[int]
    feeds: frozenset[int]
    shared: Mapping[int, int]

    @property
    def here_only(self) -> frozenset[int]:
        """The indices of equations that need not be done for the whole batch as well."""
        return self.between.here_only | self.after.here_only

    @property
    def reads(self) -> tuple[Passing, ...]:
        """What is known before, each once."""
        ways = (self.before, self.between, self.after)
        return tuple({each.small: each for way in ways for each in way.reads}.values())


@dataclass(frozen=True)
class Loop:
    """One loop that is pipelined.

    Attributes:
        big: as it is.
        small: the same for one microbatch.
        ins, outs: what becomes of the batch in its operands and results.
        numbered: as `Dealt` has it, of its body.
        spread: operands that are a smaller value broadcast over the batch -> how, in both traces.
            Every microbatch makes its own.
        ticked: operands that are results of its mirror image, read tick by tick.
        added: carries that layers only add to, beginning with zeros: every stage may add up its
            own, and nothing is handed on.
        kinds: the operand that says of what kind each layer is, 0 for none; None where all are of
            one.
        kept: results that are read tick by tick, and
        whole: those that are read otherwise.
        passage: what one microbatch goes through from the loop whose mirror image it is, if it can
            by itself; and
        no_passage: why not.
    """

    big: _compat.JaxprEqn
    small: _compat.JaxprEqn
    ins: tuple[State, ...]
    outs: tuple[State, ...]
    numbered: frozenset[Any]
    spread: Mapping[int, tuple[_compat.JaxprEqn, _compat.JaxprEqn]] = field(default_factory=dict)
    ticked: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    kinds: int | None = None
    kept: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    passage: Passage | None = None
    no_passage: str = ""

    @property
    def batches(self) -> set[int]:
        """The sizes of the dimensions that hold the batch."""
        return {
            _compat.shape_of(v)[state.dim]
            for v, state in zip(self.big.invars, self.ins, strict=True)
            if state.part is Part.SPLIT
        }


# A loop; or, of one that has such loops in its body, these by the index of their equation.
Loops: TypeAlias = "Loop | Mapping[int, Loops]"


def all_loops(loops: Mapping[int, Loops]) -> Iterator[Loop]:
    """Them, those in bodies of others too."""
    for loop in loops.values():
        if isinstance(loop, Loop):
            yield loop
        else:
            yield from all_loops(loop)


def operand_state(value: Any, dim: int | None, zeros: set[Any]) -> State:
    """What becomes of the batch in an operand that has it on a dimension."""
    if dim is not None:
        return State(Part.SPLIT, dim)
    literal = isinstance(value, _compat.Literal)
    return state_of(value, {} if literal else {value: ZERO if value in zeros else SAME})
