"""A loop over layers on the stages of a pipeline: one microbatch through the layers of one stage.

Everything runs in a `shard_map` over `pipe` and `data`; `tensor` stays with the compiler, and with
the plan. When which microbatch comes is the schedule's (`gpipe.py`, `onef1b.py`).

What comes out is what the loop made, dropout included: random numbers are drawn for the whole
batch, and every microbatch takes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autoshard import _compat
from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace.batch import Part
from autoshard.trace.microbatch import wide
from autoshard.trace.pipeline import leaving
from autoshard.trace.pipeline.leaving import Leaving, Spec, spec_of
from autoshard.trace.pipeline.loop import Loop
from autoshard.trace.pipeline.resize import Resize
from autoshard.trace.surgery import value_of

# Operands that came in, by what they were -> that, and what they are inside.
Entered = dict[tuple[int, Any, bool], tuple[Any, Any]]


class Running(NamedTuple):
    """What one stage holds between two ticks.

    Attributes:
        handed: the carry that its neighbour made.
        sums: over the microbatches so far, by result of the loop.
        latest: what is the same for all microbatches, by result.
    """

    handed: list[Any]
    sums: dict[int, Any]
    latest: dict[int, Any]


class Visit(NamedTuple):
    """A microbatch at a stage.

    Attributes:
        number: of the microbatch.
        valid: whether there is one.
        chunk: which of the stage's chunks of layers it goes through.
        begin: whether it comes from outside,
        last: and whether it leaves.
    """

    number: Any
    valid: Any
    chunk: Any
    begin: Any
    last: Any


class Stages:
    """One loop, as stages.

    Args:
        loop: it.
        pipe: how.
        given: operands that are made on the way, for one microbatch at a time; beside those that
            are read tick by tick.
    """

    def __init__(self, loop: Loop, pipe: Pipeline, given: Collection[int] = ()) -> None:
        self.loop, self.pipe = loop, pipe
        self.given = loop.ticked | frozenset(given)
        self.size = Resize(pipe.data * pipe.microbatches)
        p = loop.small.params
        self.reverse = bool(p["reverse"])
        self.length = p["length"]
        # Layers of every chunk in the order of the loop; at most in one; and in one stage.
        self.counts = pipe.layers_of(self.length)
        self.layers = max(self.counts)
        self.held = self.layers * pipe.chunks
        self.is_uneven = self.length != self.held * pipe.stages
        self.n, self.n_carry = _compat.scan_counts(p)
        self.m = self.n + self.n_carry
        closed = p["jaxpr"]
        self.body, self.body_consts = closed.jaxpr, closed.consts
        self.big_body = loop.big.params["jaxpr"].jaxpr

    # -- what comes in ---------------------------------------------------------------------------

    @property
    def entering(self) -> list[int]:
        """Operands that are there before the first tick."""
        return [k for k in range(len(self.loop.big.invars)) if k not in self.given]

    def entered(self, k: int, value: Any, known: Entered) -> Any:
        """An operand in the form in which it comes in.

        Args:
            k: its number.
            value: as it is outside.
            known: what came in already: both loops read the same weights.
        """
        dtype, is_stack = self._dtype_in(k, value), k >= self.m
        key = (id(value), dtype, is_stack)
        if key not in known:
            narrowed = value if dtype == value.dtype else jax.lax.convert_element_type(value, dtype)
            if k == self.loop.kinds:
                dealt = self._kinds_dealt_out(np.asarray(value))
            else:
                dealt = self._dealt_out(narrowed) if is_stack else narrowed
            # With the value itself, so that its identity stays its own.
            known[key] = (value, dealt)
        return known[key][1]

    def _dtype_in(self, k: int, value: Any) -> Any:
        """That of a stack which the layers read in a narrower dtype only: that dtype.

        Cast once, and not once for every microbatch; and half as much is gathered, where weights
        rest split.
        """
        if k < self.m or self.loop.ins[k].part is Part.SPLIT or not self.pipe.cast_once:
            return value.dtype
        var = self.body.invars[k]
        uses = [eqn for eqn in self.body.eqns if any(v is var for v in eqn.invars)]
        dtypes = {_compat.dtype_of(eqn.outvars[0]) for eqn in uses}
        casts = all(eqn.primitive.name == "convert_element_type" for eqn in uses)
        if not casts or len(dtypes) != 1 or any(v is var for v in self.body.outvars):
            return value.dtype
        (dtype,) = dtypes
        return dtype if dtype.itemsize < value.dtype.itemsize else value.dtype

    def _dealt_out(self, stack: Any) -> Any:
        """A stack in the order in which stages hold it: all chunks of one, then of the next.

        With layers for every stage; those that are too many change nothing.
        """
        if self.is_uneven:
            parts, begin, end = list[Any](), 0, 0
            for n in self.counts:
                end += n
                if n < self.layers:
                    more = (self.layers - n, *stack.shape[1:])
                    parts += [stack[begin:end], jnp.broadcast_to(stack[:1], more)]
                    begin = end
            parts = [part for part in (*parts, stack[begin:end]) if part.shape[0]]
            stack = jnp.concatenate(parts)
        return self._turned(stack, (self.pipe.chunks, self.pipe.stages))

    def _kinds_dealt_out(self, kinds: np.ndarray[Any, Any]) -> Any:
        """The same of what kind each layer is; the layers that are too many are none."""
        every = np.zeros((len(self.counts), self.layers), kinds.dtype)
        every[np.arange(self.layers) < np.array(self.counts)[:, None]] = kinds
        turned = every.reshape(self.pipe.chunks, self.pipe.stages, self.layers)
        return np.swapaxes(turned, 0, 1).reshape(-1)

    def _in_order(self, stack: Any) -> Any:
        """What `_dealt_out` undoes."""
        stack = self._turned(stack, (self.pipe.stages, self.pipe.chunks))
        if not self.is_uneven:
            return stack
        ranges = list[tuple[int, int]]()  # where layers are; neighbours joined
        for first, n in zip(count(step=self.layers), self.counts, strict=False):
            joins = bool(ranges) and ranges[-1][1] == first
            begin = ranges.pop()[0] if joins else first
            ranges.append((begin, first + n))
        parts = [stack[begin:end] for begin, end in ranges if begin < end]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def _turned(self, stack: Any, outer: tuple[int, int]) -> Any:
        """`[a * b * layers, ..]` as `[b * a * layers, ..]`."""
        if self.pipe.chunks == 1:
            return stack
        rest = stack.shape[1:]
        return jnp.swapaxes(stack.reshape(*outer, self.layers, *rest), 0, 1).reshape(-1, *rest)

    def spec_in(self, k: int) -> Spec:
        """Where an operand lies."""
        state = self.loop.ins[k]
        dealt = state.part is Part.SPLIT and k not in self.loop.spread
        at = {state.dim: DATA} if dealt else {}
        return spec_of({**at, **({0: PIPE} if k >= self.m else {})})

    # -- what goes out ---------------------------------------------------------------------------

    def leaving(self, unread: Collection[int] = ()) -> Iterator[Leaving]:
        """The loop's results, but for those that nobody reads."""
        at_end = 0 if self.reverse else self.pipe.stages - 1
        for k, state in enumerate(self.loop.outs):
            dtype = _compat.dtype_of(self.loop.small.outvars[k])
            if k in unread:
                continue
            if state.part is Part.SUM:
                if k < self.n_carry:
                    yield leaving.total(k, dtype)
                else:
                    yield leaving.layers_total(k, dtype, self._in_order)
            elif state.part is not Part.SPLIT:
                if k < self.n_carry:
                    yield leaving.same(k, at_end)
                else:
                    yield leaving.layers_same(k, self._in_order)
            elif k < self.n_carry:
                yield leaving.last(k, state.dim, self.pipe)
            elif k in self.loop.whole:
                yield leaving.rows(k, state.dim, self._in_order)

    @property
    def split(self) -> list[int]:
        """Results that differ from microbatch to microbatch."""
        return [k for k, state in enumerate(self.loop.outs) if state.part is Part.SPLIT]

    def part_shape(self, k: int) -> tuple[int, ...]:
        """Of a result that differs, for one microbatch in one chunk."""
        shape = self.size.shape(self.loop.big.outvars[k], self.loop.small.outvars[k])
        return shape if k < self.n_carry else (self.layers, *shape[1:])

    def part_zeros(self, k: int, *times: int) -> Any:
        """Room for a result of so many microbatches."""
        dtype = _compat.dtype_of(self.loop.small.outvars[k])
        return jnp.zeros((*times, *self.part_shape(k)), dtype)

    def operand_zeros(self, k: int) -> Any:
        """What stands for an operand of one microbatch where there is none."""
        big, small = self.loop.big.invars[k], self.loop.small.invars[k]
        return jnp.zeros(self.size.shape(big, small), _compat.dtype_of(small))


class OnDevice:
    """A loop's share of one device.

    Args:
        stages: the loop.
        stage: number of the stage.
        shard: of the batch.
        local: the operands that entered, by number.
    """

    def __init__(self, stages: Stages, stage: Any, shard: Any, local: Mapping[int, Any]) -> None:
        self.stages, self.stage, self.shard = stages, stage, shard
        pipe, ins, loop = stages.pipe, stages.loop.ins, stages.loop
        self.pipe, self.loop = pipe, loop
        self.place = pipe.stages - 1 - stage if stages.reverse else stage
        self.is_last = self.place == pipe.stages - 1
        self.local = dict(local)
        self.dealt = {
            k: leaving.parts(value, ins[k].dim, pipe.microbatches)
            for k, value in local.items()
            if ins[k].part is Part.SPLIT and k not in loop.spread
        }

    def start(self) -> Running:
        """Before the first tick."""
        sums, latest, stages = dict[int, Any](), dict[int, Any](), self.stages
        for k, state in enumerate(self.loop.outs):
            v = self.loop.small.outvars[k]
            shape, dtype = _compat.shape_of(v), _compat.dtype_of(v)
            shape = shape if k < stages.n_carry else (stages.held, *shape[1:])
            if state.part is Part.SUM:
                sums[k] = jnp.zeros(shape, wide(dtype))
            elif state.is_same:
                latest[k] = jnp.zeros(shape, dtype)
        return Running([self._first(k) for k in range(stages.n, stages.m)], sums, latest)

    def _first(self, k: int) -> Any:
        """What stands for a carry before anything was handed on."""
        if k in self.stages.given:
            return self.stages.operand_zeros(k)
        return self.dealt[k][0] if k in self.dealt else self.local[k]

    def visit(self, order: Any, *, backwards: bool = False) -> Visit:
        """What comes at some time.

        Args:
            order: how many came to this stage before.
            backwards: whether the last comes first.
        """
        pipe, end = self.pipe, self.pipe.microbatches * self.pipe.chunks
        valid, order = (order >= 0) & (order < end), jnp.clip(order, 0, end - 1)
        n = end - 1 - order if backwards else order
        begin, last = self.place == 0, valid & self.is_last
        if pipe.chunks == 1:
            return Visit(n, valid, 0, begin, last)
        first, final = order < pipe.microbatches, order >= end - pipe.microbatches
        number, chunk = n % pipe.microbatches, n // pipe.microbatches
        return Visit(number, valid, chunk, begin & first, last & final)

    def microbatch(
        self, running: Running, visit: Visit, given: Mapping[int, Any]
    ) -> tuple[Running, dict[int, Any]]:
        """A microbatch through layers of this stage.

        Args:
            running: what there is.
            visit: which, and which layers.
            given: operands that are made on the way.

        Returns:
            What there is then, and by number results of the loop.
        """
        stages, n, n_carry = self.stages, self.stages.n, self.stages.n_carry
        own = {k: parts[visit.number] for k, parts in self.dealt.items()} | dict(given)
        for k, (big, small) in self.loop.spread.items():
            if k not in own:
                with _compat.as_if_traced_at(small):
                    (own[k],) = stages.size.bind(big, small, [self.local[k]])
        operands: list[Any] = [
            own.get(k, self.local.get(k)) for k in range(len(self.loop.big.invars))
        ]
        carry = [
            operands[k]
            if k - n in self.loop.added
            else jnp.where(visit.begin, operands[k], running.handed[k - n])
            for k in range(n, stages.m)
        ]
        own_sums = {k: x for k, x in running.sums.items() if k >= n_carry}
        outs, own_sums = self._layers(operands, carry, own_sums, visit)
        sums = own_sums | {
            k: total + jnp.where(self._counts(k, visit), outs[k], 0).astype(total.dtype)
            for k, total in running.sums.items()
            if k < n_carry
        }
        latest = {
            k: jnp.where(visit.last, outs[k], old)
            if k < n_carry
            else self._latest(old, outs[k], visit)
            for k, old in running.latest.items()
        }
        handed = [
            before if k in self.loop.added else self._hand_on(outs[k])
            for k, before in enumerate(running.handed)
        ]
        return Running(handed, sums, latest), outs

    def _counts(self, k: int, visit: Visit) -> Any:
        """Whether a sum that is carried is to be added up here."""
        return visit.valid if k in self.loop.added else visit.last

    def _latest(self, old: Any, new: Any, visit: Visit) -> Any:
        """What is the same for all microbatches, of every layer of this stage."""
        if self.pipe.chunks == 1:
            return jnp.where(visit.valid, new, old)
        at = visit.chunk * self.stages.layers
        before = jax.lax.dynamic_slice_in_dim(old, at, self.stages.layers)
        new = jnp.where(visit.valid, new, before)
        return jax.lax.dynamic_update_slice_in_dim(old, new, at, 0)

    def _layers(
        self, operands: Sequence[Any], carry: Sequence[Any], sums: dict[int, Any], visit: Visit
    ) -> tuple[dict[int, Any], dict[int, Any]]:
        """One microbatch through one chunk of layers.

        Args:
            operands: of the loop, for this microbatch.
            carry: into the first layer.
            sums: what is summed per layer, so far: every layer adds to its own in place.
            visit: which microbatch, and which chunk.

        Returns:
            Results of the loop but for those sums; and the sums.
        """
        stages, pipe = self.stages, self.pipe
        consts, part = list(operands[: stages.n]), self.shard * pipe.microbatches + visit.number
        xs = dict(enumerate(operands))
        # A chunk is not cut out of what the stage holds, but each of its layers by itself.
        several = pipe.chunks > 1
        whole = {k: xs[k] for k in xs if k >= stages.m and several and k not in stages.given}
        scanned = {k: xs[k] for k in xs if k >= stages.m and k not in whole}

        def layer(state: Any, at: Any) -> tuple[Any, list[Any]]:
            (carry, sums), (number, slices) = state, at
            own = visit.chunk * stages.layers + number if several else number
            slices = slices | {
                k: jax.lax.dynamic_index_in_dim(x, own, keepdims=False) for k, x in whole.items()
            }
            env = dict(zip(stages.body.constvars, stages.body_consts, strict=True))
            inside = [*consts, *carry, *(slices[k] for k in sorted(slices))]
            env.update(zip(stages.body.invars, inside, strict=True))
            outs = self._evaluate(env, part)
            after, counts = outs[: stages.n_carry], visit.valid
            if stages.is_uneven and self.loop.kinds is None:
                exists = number < self._count(visit)
                counts = counts & exists
                after = [jnp.where(exists, new, old) for new, old in zip(after, carry, strict=True)]
            sums = {k: _added(total, outs[k], own, counts) for k, total in sums.items()}
            return (after, sums), [outs[k] for k in stacked]

        stacked = [k for k in range(stages.n_carry, len(self.loop.outs)) if k not in sums]
        numbers = jnp.arange(stages.layers, dtype=jnp.int32)
        (after, sums), ys = jax.lax.scan(
            layer,
            (list(carry), sums),
            (numbers, scanned),
            length=stages.layers,
            reverse=stages.reverse,
        )
        return dict(enumerate(after)) | dict(zip(stacked, ys, strict=True)), sums

    def _count(self, visit: Visit) -> Any:
        """How many layers this chunk has."""
        counts = jnp.asarray(self.stages.counts, dtype=jnp.int32)
        return counts[visit.chunk * self.pipe.stages + self.stage]

    def _evaluate(self, env: dict[Any, Any], part: Any) -> list[Any]:
        """The body of a layer, for one microbatch."""
        return self._run(self.stages.big_body, self.stages.body, env, part)

    def _run(
        self, large: _compat.Jaxpr, small: _compat.Jaxpr, env: dict[Any, Any], part: Any
    ) -> list[Any]:
        """Evaluate equations, as the traces for both sizes of the batch have them."""
        stages = self.stages
        for big, eqn in zip(large.eqns, small.eqns, strict=True):
            values = [value_of(v, env) for v in eqn.invars]
            with _compat.as_if_traced_at(eqn):
                if eqn.outvars[0] in self.loop.numbered:
                    every = _compat.bind(big, values, dict(big.params))
                    outs = [
                        _own(x, stages.size.shape(y, z), part)
                        for x, y, z in zip(every, big.outvars, eqn.outvars, strict=True)
                    ]
                elif eqn.primitive.name == "cond":
                    outs = self._branch(big, eqn, values, part)
                else:
                    outs = stages.size.bind(big, eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [value_of(v, env) for v in small.outvars]

    def _branch(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, values: Sequence[Any], part: Any
    ) -> list[Any]:
        """One of several bodies, each of which may number examples as the layer itself may."""
        which, *operands = values

        def branch(one: Any, other: Any) -> Callable[..., list[Any]]:
            large, (body, consts) = _compat.open_body(one)[0], _compat.open_body(other)

            def run(*args: Any) -> list[Any]:
                env = dict(zip(body.constvars, consts, strict=True))
                env.update(zip(body.invars, args, strict=True))
                return self._run(large, body, env, part)

            return run

        pairs = zip(big.params["branches"], small.params["branches"], strict=True)
        branches = [branch(one, other) for one, other in pairs]
        made: list[Any] = jax.lax.switch(which.astype(jnp.int32), branches, *operands)
        return made

    def _hand_on(self, value: Any) -> Any:
        """To the stage that has the next layers."""
        n = self.pipe.stages
        step = -1 if self.stages.reverse else 1
        pairs = [(i, i + step) for i in range(n) if 0 <= i + step < n]
        if self.pipe.chunks > 1:  # from the last to the first, for its next chunk
            pairs.append((0, n - 1) if self.stages.reverse else (n - 1, 0))
        return jax.lax.ppermute(value, PIPE, pairs)


def _added(total: Any, value: Any, layer: Any, counts: Any) -> Any:
    """A sum per layer with one layer's part of it added, where it counts."""
    old = jax.lax.dynamic_index_in_dim(total, layer, keepdims=False)
    new = old + jnp.where(counts, value, 0).astype(total.dtype)
    return jax.lax.dynamic_update_index_in_dim(total, new, layer, 0)


def _own(value: Any, shape: Sequence[int], part: Any) -> Any:
    """A microbatch's part of what was made for all examples."""
    for d, (whole, own) in enumerate(zip(value.shape, shape, strict=True)):
        if whole != own:
            return jax.lax.dynamic_slice_in_dim(value, part * own, own, d)
    return value
