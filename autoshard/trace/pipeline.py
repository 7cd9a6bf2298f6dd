"""Scanned layers as a pipeline: stages of layers on the axis `pipe`, microbatches passed along.

A loop over stacked layers carries the batch from layer to layer. Where the sharding rules of its
body prove that no example meets another (`autoshard.trace.batch`), the stack may be cut into stages
and the batch into microbatches: every stage runs its own layers on one microbatch per *tick* and
hands the carry to the next, so that after `stages - 1` ticks all of them work (GPipe,
arXiv:1811.06965). The backward loop of the same layers is one more such loop in the other
direction, over the ticks of the forward loop from the last to the first: the values that it reads
of them are then those of its own microbatch on every stage, and never leave the stage.

Everything is a `shard_map` over `pipe` and `data`; `tensor` stays with the compiler, and with the
plan. Sums over the batch leave it as one term per shard of `data`, added up outside, where the plan
decides how. What the loops make is equal to what they made, dropout included: random numbers are
drawn for the whole batch, and every microbatch takes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from autoshard import _compat
from autoshard.errors import MicrobatchError, PipelineError
from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.program.ir import Program
from autoshard.trace.batch import SAME, ZERO, Batch, Part, State, state_of
from autoshard.trace.function import Traced, rewritten
from autoshard.trace.microbatch import batch_size, smaller, wide
from autoshard.trace.resize import Resize
from autoshard.trace.rolling import rolled, runs_of
from autoshard.trace.source import user_line
from autoshard.trace.surgery import inlined, mirrored, readers, value_of

Reform = Callable[[_compat.ClosedJaxpr], _compat.ClosedJaxpr]


@dataclass(frozen=True)
class Layers:
    """The loops over a step's layers that may be cut into stages; from `layers_of`.

    Attributes:
        traced: the step as written.
        closed: in the form that is to be pipelined.
        batch: examples in it.
        loops: by the index of their equation.
        notes: what was done to the step to have them.
    """

    traced: Traced
    closed: _compat.ClosedJaxpr
    batch: int
    loops: Mapping[int, Loops]
    notes: tuple[str, ...] = ()

    @property
    def program(self) -> Program:
        """What is cut, for planning; as it is before."""
        return rewritten(self.traced, self.closed, ()).program

    @property
    def counts(self) -> tuple[int, ...]:
        """How many layers each loop has."""
        return tuple(int(loop.big.params["length"]) for loop in _all(self.loops))

    def pipelined(self, pipe: Pipeline) -> Traced:
        """The step with its layers cut into stages.

        Raises:
            PipelineError: the batch does not divide, or there are fewer layers than stages.
        """
        pieces = pipe.microbatches * pipe.data
        if self.batch % pieces:
            raise PipelineError(
                f"a batch of {self.batch} does not divide into {pipe.microbatches} microbatches on"
                f" each of {pipe.data} shards"
            )
        for loop in _all(self.loops):
            if any(size % pieces for size in loop.batches):
                raise PipelineError(
                    f"the layers at {user_line(loop.big)} run on parts of the batch that do not"
                    f" divide into {pipe.microbatches} microbatches on each of {pipe.data} shards"
                )
            if loop.big.params["length"] < pipe.stages:
                raise PipelineError(
                    f"the {loop.big.params['length']} layers at {user_line(loop.big)} are fewer"
                    f" than {pipe.stages} stages"
                )
        program = _Program(self.closed, self.loops, pipe)
        avals = [v.aval for v in self.closed.jaxpr.invars]
        closed = _compat.without_dead_code(_compat.retrace(lambda *args: program.run(args), avals))
        return rewritten(self.traced, closed, (*self.notes, *self._notes(pipe)))

    def _notes(self, pipe: Pipeline) -> Iterator[str]:
        lengths = {user_line(loop.big): loop.big.params["length"] for loop in _all(self.loops)}
        for line, length in lengths.items():
            yield (
                f"pipeline: the {length} layers at {line} are {pipe.stages} stages of"
                f" {-(-length // pipe.stages)}, each run on {pipe.microbatches} microbatches of"
                f" {self.batch // (pipe.microbatches * pipe.data)} examples"
            )


def layers_of(traced: Traced, reform: Reform = lambda closed: closed) -> Layers:
    """Find the loops over layers, and prove that the batch may pass through them in parts.

    The step is traced once more with a part of the batch: where the two traces differ, there is the
    batch, and what has its size.

    Args:
        traced: the step as written.
        reform: makes the form of it that is to be pipelined.

    Raises:
        PipelineError: there are none, or the examples of the batch meet in one; says which line of
            the user's is in the way.
    """
    try:
        size = batch_size(traced)
        pieces = next((p for p in range(2, size // 2 + 1) if size % p == 0), 2)
        small, _, batch = smaller(traced, pieces)
    except MicrobatchError as error:
        raise PipelineError(_about(error)) from error
    *traces, notes = _with_loops(traced.closed, small)
    one, other = (inlined(reform(x), remat_in_loops=True) for x in traces)
    loops = _loops(one.jaxpr, other.jaxpr, _Dealt(batch.size, batch.pieces))
    if not loops:
        raise PipelineError(
            "the step has no loop (`jax.lax.scan`) over stacked layers, and no equal layers one"
            " after the other"
        )
    return Layers(traced, one, batch.size, loops, notes)


def _with_loops(
    big: _compat.ClosedJaxpr, small: _compat.ClosedJaxpr
) -> tuple[_compat.ClosedJaxpr, _compat.ClosedJaxpr, tuple[str, ...]]:
    """Both traces with their unrolled layers as loops, if there are no others; what was done."""
    if _are_layers(inlined(big).jaxpr, inlined(small).jaxpr):
        return big, small, ()
    runs = runs_of(big)
    (one, notes), (other, also) = rolled(big, runs), rolled(small, runs)
    return (one, other, notes) if notes == also else (big, small, ())


def _are_layers(big: _compat.Jaxpr, small: _compat.Jaxpr) -> bool:
    """Whether there is a loop over layers, or one in the body of a loop."""
    scans = ([e for e in jaxpr.eqns if e.primitive.name == "scan"] for jaxpr in (big, small))
    return any(
        _has_layers(x, y) or _are_layers(*(e.params["jaxpr"].jaxpr for e in (x, y)))
        for x, y in zip(*scans, strict=False)
    )


def _about(error: MicrobatchError) -> str:
    return str(error).replace("the step cannot be taken in microbatches", "no pipeline")


# -- which loops, and what they read and make ----------------------------------------------------


@dataclass(frozen=True)
class _Dealt(Batch):
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
class _Loop:
    """One loop that is pipelined.

    Attributes:
        big: as it is.
        small: the same for one microbatch.
        ins, outs: what becomes of the batch in its operands and results.
        numbered: as `_Dealt` has it, of its body.
        spread: operands that are a smaller value broadcast over the batch -> how, in both traces.
            Every microbatch makes its own.
        ticked: operands that are results of its mirror image, read tick by tick.
        kept: results that are read tick by tick, and
        whole: those that are read otherwise.
    """

    big: _compat.JaxprEqn
    small: _compat.JaxprEqn
    ins: tuple[State, ...]
    outs: tuple[State, ...]
    numbered: frozenset[Any]
    spread: Mapping[int, tuple[_compat.JaxprEqn, _compat.JaxprEqn]] = field(default_factory=dict)
    ticked: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()

    @property
    def batches(self) -> set[int]:
        """The sizes of the dimensions that hold the batch."""
        return {
            _compat.shape_of(v)[state.dim]
            for v, state in zip(self.big.invars, self.ins, strict=True)
            if state.part is Part.SPLIT
        }


# A loop; or, of one that has such loops in its body, these by the index of their equation.
Loops: TypeAlias = "_Loop | Mapping[int, Loops]"


def _all(loops: Mapping[int, Loops]) -> Iterator[_Loop]:
    for loop in loops.values():
        if isinstance(loop, _Loop):
            yield loop
        else:
            yield from _all(loop)


def _loops(big: _compat.Jaxpr, small: _compat.Jaxpr, dealt: _Dealt) -> dict[int, Loops]:
    """The loops that can be pipelined, in bodies of others too, by the index of their equation.

    Raises:
        PipelineError: the examples of the batch meet in one.
    """
    one = [(i, eqn) for i, eqn in enumerate(big.eqns) if eqn.primitive.name == "scan"]
    other = [eqn for eqn in small.eqns if eqn.primitive.name == "scan"]
    if len(one) != len(other):
        raise PipelineError("the step has other loops for a smaller batch")
    zeros = _zeros(big)
    makers: list[dict[Any, _compat.JaxprEqn]] = [
        {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars} for jaxpr in (big, small)
    ]
    found, around = dict[int, _Loop](), dict[int, Loops]()
    for (i, x), y in zip(one, other, strict=True):
        if not _has_layers(x, y):
            inner = _loops(x.params["jaxpr"].jaxpr, y.params["jaxpr"].jaxpr, dealt)
            if inner:
                around[i] = inner
            continue
        line = user_line(x)
        own = replace(dealt, size=min(dealt.size, *_differing(x, y)), numbered={})
        try:
            ins = [
                _state(v, own.split_dim(v, w, x), zeros)
                for v, w in zip(x.invars, y.invars, strict=True)
            ]
            outs, merged = own.step(x, y, ins)
        except MicrobatchError as error:
            raise PipelineError(f"the layers at {line}: {_about(error)}") from error
        body = {v for eqn in merged.params["jaxpr"].jaxpr.eqns for v in eqn.outvars}
        inside = _results_of(merged.params["jaxpr"].jaxpr)
        numbered = {v: eqn for v, eqn in own.numbered.items() if v in inside}
        if hidden := [eqn for v, eqn in numbered.items() if v not in body]:
            raise PipelineError(
                f"{hidden[0].primitive.name} makes something for every example inside a loop in"
                f" the layers ({user_line(hidden[0])})"
            )
        spread = {
            k: (makers[0][v], makers[1][w])
            for k, (v, w) in enumerate(zip(x.invars, y.invars, strict=True))
            if k < _compat.scan_counts(x.params)[0]
            and ins[k].part is Part.SPLIT  # and so no literal
            and _is_spread(makers[0].get(v), makers[1].get(w))
        }
        found[i] = _Loop(x, merged, tuple(ins), tuple(outs), frozenset(numbered), spread)
    return around | _linked(big, found)


def _differing(big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> list[int]:
    """Sizes, in the larger trace, of the dimensions of a loop's operands that have the batch.

    Inside a loop over parts of it (accumulated gradients) the batch is one part.
    """
    return [
        x
        for v, w in zip(big.invars, small.invars, strict=True)
        for x, y in zip(_compat.shape_of(v), _compat.shape_of(w), strict=True)
        if x != y
    ]


def _is_spread(big: _compat.JaxprEqn | None, small: _compat.JaxprEqn | None) -> bool:
    """Whether a value is another, of any batch, broadcast over it."""
    both = [eqn for eqn in (big, small) if eqn and eqn.primitive.name == "broadcast_in_dim"]
    shapes = {tuple(map(_compat.shape_of, eqn.invars)) for eqn in both}
    return len(both) == 2 and len(shapes) == 1


def _state(value: Any, dim: int | None, zeros: set[Any]) -> State:
    """What becomes of the batch in an operand that has it on a dimension."""
    if dim is not None:
        return State(Part.SPLIT, dim)
    literal = isinstance(value, _compat.Literal)
    return state_of(value, {} if literal else {value: ZERO if value in zeros else SAME})


def _results_of(jaxpr: _compat.Jaxpr) -> set[Any]:
    return {v for eqn in _compat.all_equations(jaxpr) for v in eqn.outvars}


def _zeros(jaxpr: _compat.Jaxpr) -> set[Any]:
    """Variables that are zeros by definition."""
    found: set[Any] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("broadcast_in_dim", "convert_element_type"):
            value: Any = eqn.invars[0]
            literal = isinstance(value, _compat.Literal)
            if not jnp.any(value.val) if literal else value in found:
                found.update(eqn.outvars)
    return found


def _has_layers(big: _compat.JaxprEqn, small: _compat.JaxprEqn) -> bool:
    """Whether a loop carries the batch through a stack of what does not depend on it."""
    n, carry = _compat.scan_counts(big.params)
    m = n + carry
    same = [
        _compat.shape_of(x) == _compat.shape_of(y)
        for x, y in zip(big.invars, small.invars, strict=True)
    ]
    stacks = zip(big.invars[m:], same[m:], strict=True)
    weights = any(alike and len(_compat.shape_of(v)) > 1 for v, alike in stacks)
    return not all(same[n:m]) and weights


def _linked(jaxpr: _compat.Jaxpr, found: dict[int, _Loop]) -> dict[int, _Loop]:
    """The loops, with what passes from one to its mirror image tick by tick."""
    reads = readers(jaxpr)
    for i, loop in list(found.items()):
        (_, n_carry), kept, whole = _compat.scan_counts(loop.big.params), set[int](), set[int]()
        for k, var in enumerate(loop.big.outvars):
            uses = reads.get(var, ())
            if k < n_carry or loop.outs[k].part is not Part.SPLIT:
                continue
            for at, slot in uses:
                mirror = None if at is None else found.get(at)
                if (
                    at is not None
                    and mirror is not None
                    and not found[i].ticked
                    and _scans(mirror.big, slot, loop.big)
                ):
                    kept.add(k)
                    found[at] = replace(mirror, ticked=mirror.ticked | {slot})
                else:
                    whole.add(k)
        found[i] = replace(found[i], kept=frozenset(kept), whole=frozenset(whole))
    return found


def _scans(loop: _compat.JaxprEqn, slot: int, made: _compat.JaxprEqn) -> bool:
    """Whether a loop reads an operand slice by slice, and runs in the other direction."""
    return mirrored(made, loop) and slot >= sum(_compat.scan_counts(loop.params))


# -- the rewritten program -----------------------------------------------------------------------


@dataclass
class _Program:
    """A step with some of its loops pipelined.

    Attributes:
        closed: as it was.
        loops: by the index of their equation.
        pipe: how.
    """

    closed: _compat.ClosedJaxpr
    loops: Mapping[int, Loops]
    pipe: Pipeline

    def run(self, args: Sequence[Any]) -> list[Any]:
        """Evaluate it."""
        jaxpr = self.closed.jaxpr
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        # What is read tick by tick: variable -> [ticks, layers, ...].
        ticked: dict[Any, Any] = {}

        for i, eqn in enumerate(jaxpr.eqns):
            loop = self.loops.get(i)
            with _compat.as_if_traced_at(eqn):
                if not isinstance(loop, _Loop):
                    params = dict(eqn.params) if loop is None else self._around(eqn, loop)
                    outs = _compat.bind(eqn, [value_of(v, env) for v in eqn.invars], params)
                    env.update(zip(eqn.outvars, outs, strict=True))
                    continue
                values = [
                    ticked[v]
                    if k in loop.ticked
                    else value_of(loop.spread[k][0].invars[0] if k in loop.spread else v, env)
                    for k, v in enumerate(eqn.invars)
                ]
                made, kept = _Stages(loop, self.pipe).run(values)
            env.update((eqn.outvars[k], value) for k, value in made.items())
            ticked.update((eqn.outvars[k], value) for k, value in kept.items())
        return [value_of(v, env) for v in jaxpr.outvars]

    def _around(self, eqn: _compat.JaxprEqn, loops: Mapping[int, Loops]) -> dict[str, Any]:
        """Parameters of a loop whose body has loops that are pipelined."""
        body = eqn.params["jaxpr"]
        inner = _Program(body, loops, self.pipe)
        avals = [v.aval for v in body.jaxpr.invars]
        return {**eqn.params, "jaxpr": _compat.retrace(lambda *args: inner.run(args), avals)}


Spec = PartitionSpec


@dataclass(frozen=True)
class _Ended:
    """What one stage holds after the last tick.

    Attributes:
        place: of the stage, in the order of the microbatch's way.
        sums: over the batch, by result.
        latest: what is the same for all microbatches, by result.
        stacked: what differs from tick to tick, by result; `[ticks, ...]`.
    """

    place: Any
    sums: dict[int, Any]
    latest: dict[int, Any]
    stacked: dict[int, Any]


@dataclass(frozen=True)
class _Result:
    """One array that leaves the stages.

    Attributes:
        of: the loop's result that it is,
        is_kept: or that it is tick by tick.
        spec: of the whole.
        local: on one device.
        finish: makes the loop's result of the whole.
    """

    of: int
    is_kept: bool
    spec: Spec
    local: Callable[[_Ended], Any]
    finish: Callable[[Any], Any] = lambda whole: whole


class _Stages:
    """One loop, as stages.

    Args:
        loop: it.
        pipe: how.
    """

    def __init__(self, loop: _Loop, pipe: Pipeline) -> None:
        self.loop, self.pipe = loop, pipe
        self.size = Resize(pipe.data * pipe.microbatches)
        p = loop.small.params
        self.reverse = bool(p["reverse"])
        self.length = p["length"]
        self.layers = -(-self.length // pipe.stages)
        self.is_uneven = self.length % pipe.stages != 0
        self.n, self.n_carry = _compat.scan_counts(p)
        self.m = self.n + self.n_carry
        closed = p["jaxpr"]
        self.body, self.body_consts = closed.jaxpr, closed.consts
        self.big_body = loop.big.params["jaxpr"].jaxpr
        # A loop that reads what its mirror image kept takes the microbatches in the other order.
        self.backwards = bool(loop.ticked)

    # -- around the stages -----------------------------------------------------------------------

    def run(self, values: Sequence[Any]) -> tuple[dict[int, Any], dict[int, Any]]:
        """Evaluate it.

        Args:
            values: of its operands; those that are ticked as the mirror image kept them.

        Returns:
            By number, its results; and likewise those that are kept tick by tick.
        """
        results = [*self._results()]

        def stage(stages: Any, shards: Any, *local: Any) -> list[Any]:
            ended = self._stage(stages[0], shards[0], local)
            return [each.local(ended) for each in results]

        counters = (
            jnp.arange(self.pipe.stages, dtype=jnp.int32),
            jnp.arange(self.pipe.data, dtype=jnp.int32),
        )
        values = [self._padded(k, self._narrowed(k, x)) for k, x in enumerate(values)]
        wholes = _compat.shard_map(
            stage,
            _compat.abstract_mesh(self.pipe.sizes),
            in_specs=(Spec(PIPE), Spec(DATA), *(self._spec_in(k) for k in range(len(values)))),
            out_specs=[each.spec for each in results],
            manual={PIPE, DATA},
        )(*counters, *values)
        made, kept = dict[int, Any](), dict[int, Any]()
        for each, whole in zip(results, wholes, strict=True):
            (kept if each.is_kept else made)[each.of] = each.finish(whole)
        return made, kept

    def _narrowed(self, k: int, value: Any) -> Any:
        """A stack that the layers read in a narrower dtype only, in that dtype.

        Cast once, and not once for every microbatch; and half as much is gathered, where weights
        rest split.
        """
        if k < self.m or self.loop.ins[k].part is Part.SPLIT:
            return value
        uses = [eqn for eqn in self.body.eqns if self.body.invars[k] in _variables(eqn)]
        dtypes = {_compat.dtype_of(eqn.outvars[0]) for eqn in uses}
        casts = all(eqn.primitive.name == "convert_element_type" for eqn in uses)
        if (
            not casts
            or len(dtypes) != 1
            or any(v is self.body.invars[k] for v in self.body.outvars)
        ):
            return value
        (dtype,) = dtypes
        narrower = dtype.itemsize < value.dtype.itemsize
        return jax.lax.convert_element_type(value, dtype) if narrower else value

    def _padded(self, k: int, value: Any) -> Any:
        """A stack with layers for every stage; those that are too many change nothing."""
        if not self.is_uneven or k < self.m or k in self.loop.ticked:
            return value
        more = self.layers * self.pipe.stages - self.length
        copies = jnp.broadcast_to(value[:1], (more, *value.shape[1:]))
        return jnp.concatenate([value, copies])

    def _spec_in(self, k: int) -> Spec:
        state = self.loop.ins[k]
        if k in self.loop.ticked:
            return _spec({1: PIPE, state.dim + 1: DATA})
        dealt = state.part is Part.SPLIT and k not in self.loop.spread
        at = {state.dim: DATA} if dealt else {}
        return _spec({**at, **({0: PIPE} if k >= self.m else {})})

    # -- on one device ---------------------------------------------------------------------------

    def _stage(self, stage: Any, shard: Any, local: Sequence[Any]) -> _Ended:
        pipe, ins = self.pipe, self.loop.ins
        place = pipe.stages - 1 - stage if self.reverse else stage
        dealt = {
            k: _parts(value, ins[k].dim, pipe.microbatches)
            for k, value in enumerate(local)
            if ins[k].part is Part.SPLIT and k not in self.loop.ticked | self.loop.spread.keys()
        }
        ticked = {k: local[k] for k in self.loop.ticked}
        first = [dealt[k][0] if k in dealt else local[k] for k in range(self.n, self.m)]
        sums, latest = self._accumulators()
        split = [k for k, state in enumerate(self.loop.outs) if state.part is Part.SPLIT]

        def tick(state: Any, at: tuple[Any, dict[int, Any]]) -> tuple[Any, Any]:
            handed, sums, latest = state
            when, slices = at
            order = when - place
            valid = (order >= 0) & (order < pipe.microbatches)
            number = jnp.clip(order, 0, pipe.microbatches - 1)
            number = pipe.microbatches - 1 - number if self.backwards else number
            own = {k: parts[number] for k, parts in dealt.items()} | slices
            for k, (big, small) in self.loop.spread.items():
                with _compat.as_if_traced_at(small):
                    (own[k],) = self.size.bind(big, small, [local[k]])
            operands = [own.get(k, value) for k, value in enumerate(local)]
            begin = place == 0
            carry = [
                jnp.where(begin, operands[k], handed[k - self.n]) for k in range(self.n, self.m)
            ]
            part = shard * pipe.microbatches + number
            last = valid & (place == pipe.stages - 1)
            own_sums = {k: total for k, total in sums.items() if k >= self.n_carry}
            outs, own_sums = self._layers(operands, carry, own_sums, stage, valid, part)
            sums = own_sums | {
                k: total + jnp.where(last, outs[k], 0).astype(total.dtype)
                for k, total in sums.items()
                if k < self.n_carry
            }
            latest = {
                k: jnp.where(last if k < self.n_carry else valid, outs[k], old)
                for k, old in latest.items()
            }
            stacked = {k: outs[k] for k in split}
            return ([self._hand_on(outs[k]) for k in range(self.n_carry)], sums, latest), stacked

        whens = jnp.arange(pipe.ticks, dtype=jnp.int32)
        if self.backwards:
            whens = whens[::-1]
        (_, sums, latest), stacked = jax.lax.scan(
            tick, (first, sums, latest), (whens, ticked), reverse=self.backwards
        )
        if self.backwards:
            # Stacked where the mirror image's ticks are: the last one came first.
            stacked = {k: jnp.flip(v, 0) for k, v in stacked.items()}
        return _Ended(place, sums, latest, stacked)

    def _layers(
        self,
        operands: Sequence[Any],
        carry: Sequence[Any],
        sums: dict[int, Any],
        stage: Any,
        valid: Any,
        part: Any,
    ) -> tuple[dict[int, Any], dict[int, Any]]:
        """One microbatch through the layers of one stage.

        Args:
            operands: of the loop, for this microbatch.
            carry: into the first layer.
            sums: what is summed per layer, so far: every layer adds to its own in place.
            stage: number of the stage.
            valid: whether there is a microbatch.
            part: number of the microbatch, over all shards.

        Returns:
            Results of the loop but for those sums; and the sums.
        """
        consts, xs = list(operands[: self.n]), list(operands[self.m :])

        def layer(state: Any, at: Any) -> tuple[Any, list[Any]]:
            (carry, sums), (number, slices) = state, at
            env = dict(zip(self.body.constvars, self.body_consts, strict=True))
            env.update(zip(self.body.invars, [*consts, *carry, *slices], strict=True))
            outs = self._evaluate(env, part)
            after, counts = outs[: self.n_carry], valid
            if self.is_uneven:
                exists = stage * self.layers + number < self.length
                counts = valid & exists
                after = [jnp.where(exists, new, old) for new, old in zip(after, carry, strict=True)]
            sums = {k: _added(total, outs[k], number, counts) for k, total in sums.items()}
            return (after, sums), [outs[k] for k in stacked]

        stacked = [k for k in range(self.n_carry, len(self.loop.outs)) if k not in sums]
        numbers = jnp.arange(self.layers, dtype=jnp.int32)
        (after, sums), ys = jax.lax.scan(
            layer, (list(carry), sums), (numbers, xs), length=self.layers, reverse=self.reverse
        )
        return dict(enumerate(after)) | dict(zip(stacked, ys, strict=True)), sums

    def _evaluate(self, env: dict[Any, Any], part: Any) -> list[Any]:
        """The body of a layer, for one microbatch."""
        for big, eqn in zip(self.big_body.eqns, self.body.eqns, strict=True):
            values = [value_of(v, env) for v in eqn.invars]
            with _compat.as_if_traced_at(eqn):
                if eqn.outvars[0] in self.loop.numbered:
                    every = _compat.bind(big, values, dict(big.params))
                    outs = [
                        _own(x, self.size.shape(y, z), part)
                        for x, y, z in zip(every, big.outvars, eqn.outvars, strict=True)
                    ]
                else:
                    outs = self.size.bind(big, eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [value_of(v, env) for v in self.body.outvars]

    def _accumulators(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """What begins as nothing: sums over microbatches, and what is the same in all of them."""
        sums, latest = {}, {}
        for k, state in enumerate(self.loop.outs):
            v = self.loop.small.outvars[k]
            shape, dtype = _compat.shape_of(v), _compat.dtype_of(v)
            shape = shape if k < self.n_carry else (self.layers, *shape[1:])
            if state.part is Part.SUM:
                sums[k] = jnp.zeros(shape, wide(dtype))
            elif state.is_same:
                latest[k] = jnp.zeros(shape, dtype)
        return sums, latest

    def _hand_on(self, value: Any) -> Any:
        """To the stage that has the next layers."""
        n = self.pipe.stages
        step = -1 if self.reverse else 1
        pairs = [(i, i + step) for i in range(n) if 0 <= i + step < n]
        return jax.lax.ppermute(value, PIPE, pairs)

    # -- what leaves -----------------------------------------------------------------------------

    def _results(self) -> Iterator[_Result]:
        for k, state in enumerate(self.loop.outs):
            if state.part is Part.SUM:
                yield self._sum(k)
            elif state.part is not Part.SPLIT:
                yield self._same(k)
            elif k < self.n_carry:
                yield self._carried(k, state.dim)
            else:
                if k in self.loop.kept:
                    spec = _spec({1: PIPE, state.dim + 1: DATA})
                    yield _Result(k, True, spec, partial(_ticks, k))
                if k in self.loop.whole:
                    yield self._stacked(k, state.dim)

    def _sum(self, k: int) -> _Result:
        """A sum over the batch: one term per shard of it, added up outside."""
        dtype = _compat.dtype_of(self.loop.small.outvars[k])
        spec = _spec({0: (PIPE, DATA)} if k < self.n_carry else {0: DATA, 1: PIPE})
        return _Result(
            k,
            False,
            spec,
            lambda end: end.sums[k].astype(dtype)[None],
            lambda whole: self._cut(k, jax.lax.reduce_sum(whole, axes=(0,))),
        )

    def _cut(self, k: int, whole: Any) -> Any:
        """A result without the layers that were too many."""
        return whole[: self.length] if self.is_uneven and k >= self.n_carry else whole

    def _same(self, k: int) -> _Result:
        """What no example has to do with."""
        if k >= self.n_carry:
            return _Result(
                k,
                False,
                _spec({0: PIPE}),
                lambda end: end.latest[k],
                lambda whole: self._cut(k, whole),
            )
        at_end = 0 if self.reverse else self.pipe.stages - 1
        return _Result(
            k,
            False,
            _spec({0: PIPE}),
            lambda end: end.latest[k][None],
            lambda whole: whole[at_end],
        )

    def _carried(self, k: int, dim: int) -> _Result:
        """The last stage's carry of every microbatch, dealt out over all stages."""
        n = self.pipe.stages
        scatter = self.pipe.microbatches % n == 0

        def local(end: _Ended) -> Any:
            ticks = end.stacked[k][n - 1 :]
            ticks = jnp.flip(ticks, 0) if self.backwards else ticks
            own = jnp.where(end.place == n - 1, ticks, jnp.zeros_like(ticks))
            if not scatter:
                return _joined(jax.lax.psum(own, PIPE), dim)
            own = jax.lax.psum_scatter(own, PIPE, scatter_dimension=0, tiled=True)
            return _joined(own, dim)

        return _Result(k, False, _spec({dim: (DATA, PIPE) if scatter else DATA}), local)

    def _stacked(self, k: int, dim: int) -> _Result:
        """What every layer made of every microbatch."""

        def local(end: _Ended) -> Any:
            ticks = end.stacked[k]
            own = jax.lax.dynamic_slice_in_dim(ticks, end.place, self.pipe.microbatches)
            return _joined(jnp.flip(own, 0) if self.backwards else own, dim)

        return _Result(
            k, False, _spec({0: PIPE, dim: DATA}), local, lambda whole: self._cut(k, whole)
        )


def _ticks(k: int, end: _Ended) -> Any:
    return end.stacked[k]


def _variables(eqn: _compat.JaxprEqn) -> list[Any]:
    return [v for v in eqn.invars if not isinstance(v, _compat.Literal)]


def _added(total: Any, value: Any, layer: Any, counts: Any) -> Any:
    """A sum per layer with one layer's part of it added, where it counts."""
    old = jax.lax.dynamic_index_in_dim(total, layer, keepdims=False)
    new = old + jnp.where(counts, value, 0).astype(total.dtype)
    return jax.lax.dynamic_update_index_in_dim(total, new, layer, 0)


def _spec(axes: dict[int, Any]) -> Spec:
    return Spec(*(axes.get(d) for d in range(max(axes, default=-1) + 1)))


def _parts(value: Any, dim: int, parts: int) -> Any:
    """`[.., parts * n, ..]` as `[parts, .., n, ..]`: one slice per microbatch."""
    shape = value.shape
    apart = (*shape[:dim], parts, shape[dim] // parts, *shape[dim + 1 :])
    return jnp.moveaxis(value.reshape(apart), dim, 0)


def _joined(value: Any, dim: int) -> Any:
    """What `_parts` undoes."""
    value = jnp.moveaxis(value, 0, dim)
    shape = value.shape
    return value.reshape((*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]))


def _own(value: Any, shape: Sequence[int], part: Any) -> Any:
    """A microbatch's part of what was made for all examples."""
    for d, (whole, own) in enumerate(zip(value.shape, shape, strict=True)):
        if whole != own:
            return jax.lax.dynamic_slice_in_dim(value, part * own, own, d)
    return value
