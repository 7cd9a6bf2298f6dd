"""What becomes of the batch: which values are split by example, which are sums over examples.

Two traces of one step are read side by side, one of the whole batch and one of a microbatch. Where
they differ in shape there is the batch; that examples do not meet along it is not seen from shapes
but proven from the sharding rules of the ops: the batch is a parallel factor, or one that is summed
over. What is a sum may pass through what is linear, and meets no single example again. Anything
else is refused, with the line of the user's that does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax.numpy as jnp
import numpy as np

from autoshard import _compat
from autoshard.errors import MicrobatchError
from autoshard.program.rule import Combiner, FactorKind, Rule
from autoshard.rules.indexing import ADDING
from autoshard.rules.registry import rule_for
from autoshard.trace.source import user_line
from autoshard.trace.walk import view


class Part(Enum):
    """What a microbatch knows of a value."""

    SAME = "same"  # does not depend on the batch
    ZERO = "zero"  # the same, and all of it is zero
    SPLIT = "split"  # its own examples' part
    SUM = "sum"  # the sum over its own examples
    WHOLE = "whole"  # nothing: known only after all microbatches


@dataclass(frozen=True)
class State:
    """A value's part.

    Attributes:
        part: what a microbatch knows of it.
        dim: the dimension that the examples stand on, the major part of it; for SPLIT.
        origin: the user's line that summed over examples; for SUM and WHOLE.
    """

    part: Part
    dim: int = 0
    origin: str = ""

    @property
    def is_same(self) -> bool:
        """Whether it does not depend on the batch."""
        return self.part in (Part.SAME, Part.ZERO)

    @property
    def is_summable(self) -> bool:
        """Whether it may be added to a sum over examples and remain one."""
        return self.part in (Part.SUM, Part.ZERO)


SAME, ZERO = State(Part.SAME), State(Part.ZERO)

# Ops whose reduction over a dimension is the sum over its pieces. Of a gather it is not: what its
# pieces look up is counted from the beginning of the whole.
_SUMMING = frozenset({"dot_general", "conv_general_dilated", "reduce_sum", *ADDING})
# Linear in their first operand, whatever the others are.
_LINEAR_IN_FIRST = frozenset(
    """broadcast_in_dim convert_element_type copy cumsum div dynamic_slice name neg reduce_sum
    reshape rev sharding_constraint slice split squeeze stop_gradient transpose unstack""".split()
)
_ADDITIVE = frozenset({"add", "add_any", "sub", "concatenate", "pad", "stack"})
_BILINEAR = frozenset({"mul", "dot_general", "conv_general_dilated"})
# Where zero stays zero.
_KEEPING_ZERO = frozenset(
    "broadcast_in_dim convert_element_type copy reshape squeeze transpose".split()
)
# Parameters that say shapes, and so differ between the traces.
SHAPES = frozenset({"shape", "new_sizes", "slice_sizes", "limit_indices"})
_RANDOM = frozenset(
    {"random_bits", "random_split", "random_gamma", "rng_bit_generator", "rng_uniform"}
)


def refused(why: str, eqn: _compat.JaxprEqn | None = None) -> MicrobatchError:
    """The error for a step whose microbatches would not add up to it."""
    line = user_line(eqn) if eqn is not None else ""
    return MicrobatchError(
        f"the step cannot be taken in microbatches: {why}" + (f" ({line})" if line else "")
    )


@dataclass(frozen=True)
class Batch:
    """How examples are dealt out.

    Attributes:
        size: examples in the whole batch.
        pieces: microbatches.
    """

    size: int
    pieces: int

    def split_dim(self, big: Any, small: Any, eqn: _compat.JaxprEqn) -> int | None:
        """The dimension on which the shapes of both traces differ; None where they don't.

        Raises:
            MicrobatchError: they differ otherwise than a batch and its microbatch do.
        """
        before, after = _compat.shape_of(big), _compat.shape_of(small)
        if before == after:
            return None
        differing = [d for d, (x, y) in enumerate(zip(before, after, strict=False)) if x != y]
        if len(before) == len(after) and len(differing) == 1:
            (d,) = differing
            if before[d] == after[d] * self.pieces and before[d] % self.size == 0:
                return d
        raise refused(
            f"{eqn.primitive.name} makes {list(before)} of the whole batch and {list(after)} of a"
            f" microbatch, of which there are {self.pieces}",
            eqn,
        )

    def body(
        self, big: Any, small: Any, states: Sequence[State], eqn: _compat.JaxprEqn
    ) -> tuple[list[State], Any]:
        """States of a body's results, and the body to run on a microbatch.

        Args:
            big: the body in the trace of the whole batch, closed or open.
            small: in that of a microbatch.
            states: of its arguments.
            eqn: around it, for messages.
        """
        (one, held), (other, held_too) = _compat.open_body(big), _compat.open_body(small)
        if len(held) != len(held_too) or not all(map(_equal, held, held_too)):
            raise refused("a loop or function holds constants that depend on the batch size", eqn)
        env: dict[Any, State] = dict.fromkeys(one.constvars, SAME)
        env.update(zip(one.invars, states, strict=True))
        eqns = []
        for x, y in paired(one, other):
            outs, merged = self.step(x, y, [state_of(v, env) for v in x.invars])
            env.update(zip(x.outvars, outs, strict=True))
            eqns.append(merged)
        results = [state_of(v, env) for v in one.outvars]
        outs = [_agreed(x, y, eqn) for x, y in zip(one.outvars, other.outvars, strict=True)]
        jaxpr = _compat.new_jaxpr(other, other.constvars, other.invars, outs, eqns)
        closed = isinstance(small, _compat.ClosedJaxpr)
        return results, _compat.ClosedJaxpr(jaxpr, held_too) if closed else jaxpr

    def step(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
    ) -> tuple[list[State], _compat.JaxprEqn]:
        """States of an equation's results, and the equation to run on a microbatch.

        Raises:
            MicrobatchError: the results would not be those of the whole batch.
        """
        if big.effects:
            raise refused(f"{big.primitive.name} has side effects, once per microbatch", big)
        name = big.primitive.name
        reads = [_agreed(x, y, big) for x, y in zip(big.invars, small.invars, strict=True)]
        small = small.replace(invars=reads)
        parameter = _compat.INLINE_BODIES.get(name)
        if name in _compat.REMAT_BODIES:
            parameter = "jaxpr"
        if name == "scan":
            return self._scan(big, small, states)
        if name == "cond":
            return self._cond(big, small, states)
        if parameter is not None and parameter in big.params:
            outs, body = self.body(big.params[parameter], small.params[parameter], states, big)
            return outs, small.replace(params={**small.params, parameter: body})
        _same_params(big, small)
        if all(s.is_same for s in states):
            return self._made(big, small, states), small
        if name == "optimization_barrier":
            return list(states), small
        if any(s.part in (Part.SUM, Part.WHOLE) for s in states):
            return self._of_sums(big, states), small
        outs = self._of_examples(big, states)
        for out, x, y in zip(outs, big.outvars, small.outvars, strict=True):
            found = self.split_dim(x, y, big)
            if found != (out.dim if out.part is Part.SPLIT else None):
                raise refused(f"{name} mixes examples of the batch", big)
        return outs, small

    # -- values that do not depend on the batch, but may be as large -------------------------

    def _made(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
    ) -> list[State]:
        dims = [self.split_dim(x, y, big) for x, y in zip(big.outvars, small.outvars, strict=True)]
        if all(d is None for d in dims):
            keeps = big.primitive.name in _KEEPING_ZERO and states[0].part is Part.ZERO
            return [ZERO if keeps else SAME] * len(dims)
        if is_uniform(big, dims):
            return [SAME if d is None else State(Part.SPLIT, d) for d in dims]
        if big.primitive.name in _RANDOM:
            raise refused(
                "random numbers drawn for the batch inside a loop would be the same in every"
                " microbatch; draw them outside of it, or give every example its own key",
                big,
            )
        raise refused(
            f"{big.primitive.name} makes something for every example of the batch inside a loop,"
            " which a microbatch would number from its own beginning",
            big,
        )

    # -- values split by example -------------------------------------------------------------

    def _of_examples(self, eqn: _compat.JaxprEqn, states: Sequence[State]) -> list[State]:
        name = eqn.primitive.name
        if name == "reshape":
            return [self._reshaped(eqn, states[0])]
        rule = rule_for(view(eqn))
        if not rule.known:
            raise refused(
                f"{name} has no sharding rule, so what it does to the batch is unknown", eqn
            )
        f = _batch_factor(eqn, rule, states, self.pieces)
        factor = rule.factors[f]
        if factor.kind is FactorKind.PARALLEL:
            if name.startswith("scatter") and f not in rule.operands[2]:
                raise refused(f"{name} writes to examples of the batch by number", eqn)
            outs = []
            for dims, var in zip(rule.results, eqn.outvars, strict=True):
                if f not in dims or _compat.shape_of(var)[dims.index(f)] != factor.size:
                    raise refused(f"{name} mixes examples of the batch", eqn)
                outs.append(State(Part.SPLIT, dims.index(f)))
            return outs
        if factor.combiner is Combiner.ADD and name in _SUMMING:
            if name in ADDING and states[0].part is not Part.ZERO:
                raise refused(f"{name} adds examples of the batch to something else", eqn)
            return [State(Part.SUM, origin=user_line(eqn))] * len(eqn.outvars)
        how = factor.combiner.value if factor.combiner else "whole"
        raise refused(f"{name} is no sum over the batch but needs all of it ({how})", eqn)

    def _reshaped(self, eqn: _compat.JaxprEqn, state: State) -> State:
        """Row-major order stays: the batch is where as many elements lie behind it as before."""
        before, after = _compat.shape_of(eqn.invars[0]), _compat.shape_of(eqn.outvars[0])
        behind = int(np.prod(before[state.dim :], dtype=np.int64)) // self.size
        for d in range(len(after)):
            rest = int(np.prod(after[d + 1 :], dtype=np.int64))
            if behind % rest == 0 and after[d] == self.size * (behind // rest):
                return State(Part.SPLIT, d)
        raise refused(
            f"a reshape of {list(before)} to {list(after)} takes the batch apart, or makes it the"
            " minor part of a dimension",
            eqn,
        )

    # -- sums over examples ------------------------------------------------------------------

    def _of_sums(self, eqn: _compat.JaxprEqn, states: Sequence[State]) -> list[State]:
        name = eqn.primitive.name
        total = next(s for s in states if s.part in (Part.SUM, Part.WHOLE))
        if any(s.part is Part.SPLIT for s in states):
            raise refused(
                f"what is summed over the batch at {total.origin or 'an unknown line'} goes back to"
                f" single examples in {name}",
                eqn,
            )
        if not is_linear(eqn, states):
            raise refused(
                f"what is summed over the batch at {total.origin or 'an unknown line'} goes through"
                f" {name}, which is not linear, in a loop",
                eqn,
            )
        return [total] * len(eqn.outvars)

    # -- bodies ------------------------------------------------------------------------------

    def _scan(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
    ) -> tuple[list[State], _compat.JaxprEqn]:
        p, q = big.params, small.params
        if p["length"] != q["length"]:
            raise refused("a loop runs over the examples of the batch", big)
        n, carried = _compat.scan_counts(p)
        m = n + carried
        scanned = []
        for state in states[m:]:
            if state.part is Part.SPLIT and state.dim == 0:
                raise refused("a loop runs over the examples of the batch", big)
            inner = state.part is Part.SPLIT
            scanned.append(State(Part.SPLIT, state.dim - 1) if inner else state)
        carry = list(states[n:m])
        while True:
            outs, body = self.body(p["jaxpr"], q["jaxpr"], [*states[:n], *carry, *scanned], big)
            joined = [_joined(a, b, big) for a, b in zip(carry, outs[: m - n], strict=True)]
            if [s.part for s in joined] == [s.part for s in carry]:
                break
            carry = joined
        stacked = [
            State(Part.SPLIT, s.dim + 1) if s.part is Part.SPLIT else s for s in outs[m - n :]
        ]
        return [*joined, *stacked], small.replace(params={**q, "jaxpr": body})

    def _cond(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, states: Sequence[State]
    ) -> tuple[list[State], _compat.JaxprEqn]:
        if not states[0].is_same:
            raise refused("which branch is taken depends on the batch", big)
        bodies, outs = [], list[State]()
        for x, y in zip(big.params["branches"], small.params["branches"], strict=True):
            found, body = self.body(x, y, states[1:], big)
            bodies.append(body)
            pairs = zip(outs or found, found, strict=True)
            outs = [_joined(a, b, big) for a, b in pairs]
        return outs, small.replace(params={**small.params, "branches": tuple(bodies)})


def paired(
    big: _compat.Jaxpr, small: _compat.Jaxpr
) -> list[tuple[_compat.JaxprEqn, _compat.JaxprEqn]]:
    """Equations of both traces that correspond.

    Raises:
        MicrobatchError: they do not correspond one to one.
    """
    for x, y in zip(big.eqns, small.eqns, strict=False):
        if x.primitive is not y.primitive or len(x.outvars) != len(y.outvars):
            raise refused("the function does something else for a smaller batch", x)
    if len(big.eqns) != len(small.eqns):
        raise refused("the function does something else for a smaller batch")
    return list(zip(big.eqns, small.eqns, strict=True))


def state_of(atom: Any, env: dict[Any, State]) -> State:
    """What is known of an operand."""
    if not isinstance(atom, _compat.Literal):
        return env[atom]
    return ZERO if np.ndim(atom.val) == 0 and _is_zero(atom.val) else SAME


def is_uniform(eqn: _compat.JaxprEqn, dims: Sequence[int | None]) -> bool:
    """Whether an equation makes the same for every example, so that any of them will do."""
    (dim, *_), name = dims, eqn.primitive.name
    if name == "broadcast_in_dim":
        places = eqn.params["broadcast_dimensions"]
        return dim not in places or _compat.shape_of(eqn.invars[0])[places.index(dim)] == 1
    return name in ("empty", "empty2") or (name == "iota" and eqn.params["dimension"] != dim)


def is_linear(eqn: _compat.JaxprEqn, states: Sequence[State]) -> bool:
    """Whether an op makes a sum over examples of operands of which some are such sums."""
    name, first, rest = eqn.primitive.name, states[0], states[1:]
    before, after = _compat.dtype_of(eqn.invars[0]), _compat.dtype_of(eqn.outvars[0])
    if name == "div" and not jnp.issubdtype(after, jnp.inexact):
        return False  # whole numbers lose their remainders, once per microbatch
    if name == "convert_element_type":
        fractions = jnp.issubdtype(before, jnp.inexact) and not jnp.issubdtype(after, jnp.inexact)
        if fractions or after == jnp.bool_:
            return False
    if name in _ADDITIVE:
        return all(s.is_summable for s in states)
    if name in _LINEAR_IN_FIRST:
        return first.part is Part.SUM and all(s.is_same for s in rest)
    if name in _BILINEAR:
        return sum(s.part is Part.SUM for s in states) == 1
    if name == "select_n":
        return first.is_same and all(s.is_summable for s in rest)
    if name == "dynamic_update_slice":
        both = first.is_summable and states[1].is_summable
        return both and all(s.is_same for s in states[2:])
    if name in ADDING:
        return first.is_summable and states[2].is_summable and states[1].is_same
    return False


def _batch_factor(eqn: _compat.JaxprEqn, rule: Rule, states: Sequence[State], pieces: int) -> int:
    """The factor of an op's iteration space that the batch is."""
    name, found = eqn.primitive.name, set[int]()
    for state, dims, atom in zip(states, rule.operands, eqn.invars, strict=True):
        if state.part is not Part.SPLIT:
            continue
        f = dims[state.dim]
        if f is None or rule.factors[f].size != _compat.shape_of(atom)[state.dim]:
            raise refused(f"{name} needs to see all of the batch", eqn)
        found.add(f)
    if len(found) > 1:
        raise refused(f"{name} brings every example of the batch together with every other", eqn)
    (f,) = found
    if rule.factors[f].size % pieces or any(
        state.part is not Part.SPLIT and f in dims
        for state, dims in zip(states, rule.operands, strict=True)
    ):
        raise refused(f"{name} mixes examples of the batch with something else", eqn)
    return f


def _joined(before: State, after: State, eqn: _compat.JaxprEqn) -> State:
    """What a carry is that begins as one and goes on as the other."""
    if before.part is after.part and before.dim == after.dim:
        return before
    if before.is_same and after.is_same:
        return SAME
    if before.is_summable and after.is_summable:
        return after if before.part is Part.ZERO else before
    raise refused(
        f"{eqn.primitive.name} takes for one what is summed over the batch{_at(after)} and what is"
        " not",
        eqn,
    )


def _at(state: State) -> str:
    return f" at {state.origin}" if state.origin else ""


def _agreed(big: Any, small: Any, eqn: _compat.JaxprEqn) -> Any:
    """An operand for a microbatch: the small trace's, with the numbers of the whole batch.

    A mean over the batch divides by its size. Divided by that of the whole batch, the sums over
    microbatches are the mean.
    """
    if not isinstance(big, _compat.Literal) and not isinstance(small, _compat.Literal):
        return small
    if isinstance(big, _compat.Literal) and isinstance(small, _compat.Literal):
        if _equal(big.val, small.val):
            return small
        if jnp.issubdtype(_compat.dtype_of(big), jnp.inexact):
            return big
    raise refused(f"{eqn.primitive.name} computes with the batch size as a whole number", eqn)


def _same_params(big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> None:
    for key, value in big.params.items():
        other: Any = small.params.get(key)
        if key in SHAPES or callable(value) or value is other or value == other:
            continue
        raise refused(
            f"{big.primitive.name} works otherwise for a smaller batch ({key} {value} and {other})",
            big,
        )


def _equal(a: Any, b: Any) -> bool:
    if _compat.abstract(a)[:2] != _compat.abstract(b)[:2]:
        return False
    return a is b or bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=False))


def _is_zero(value: Any) -> bool:
    try:
        return bool(np.asarray(value) == 0)
    except (TypeError, ValueError):  # a key
        return False
