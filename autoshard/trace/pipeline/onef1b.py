"""One microbatch forward, one back: 1F1B (Narayanan et al. 2019, PipeDream, arXiv:1806.03377).

The forward loop, its mirror image and what lies between go over one sequence of ticks. In the first
`stages - 1` of them there is nothing to take back yet, in the last as many nothing to take forward;
in between a stage takes one microbatch forward and one back per tick, which takes as long together
as all forward and then all back. What is kept for the way back is there for at most
`2 * stages - 1` microbatches on the first stage, however many there are: stages wait for each other
after every tick, so that a microbatch is away for two ticks per stage.

What comes before the layers, between and after them is done by all stages at every tick, and counts
on the first or the last. What lies between (head and loss) may be *dealt out* instead: of as many
microbatches as there are stages each stage takes one, once they have all come to the last. They go
back as many ticks later, idle ticks are as many, and no stage does a head for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autoshard import _compat
from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace.batch import Part
from autoshard.trace.microbatch import wide
from autoshard.trace.pipeline import leaving
from autoshard.trace.pipeline.across import on_stages
from autoshard.trace.pipeline.leaving import Ended, Leaving, spec_of
from autoshard.trace.pipeline.loop import Loop, Passage, Passing, Way
from autoshard.trace.pipeline.resize import Resize
from autoshard.trace.pipeline.stages import Entered, OnDevice, Running, Stages, Visit
from autoshard.trace.surgery import value_of, variables


class Made(NamedTuple):
    """What comes out: of the loops by number of the result, of the ways by number of the leaf."""

    forward: dict[int, Any]
    backward: dict[int, Any]
    between: dict[int, Any]
    after: dict[int, Any]


def run(
    forward: Loop,
    backward: Loop,
    passage: Passage,
    pipe: Pipeline,
    values: tuple[Mapping[int, Any], Mapping[int, Any], Sequence[Any]],
    unread: tuple[frozenset[int], frozenset[int]],
    known: Entered,
) -> Made:
    """A loop over layers, its mirror image, and what a microbatch goes through beside them.

    Args:
        forward: the loop.
        backward: its mirror image.
        passage: what a microbatch goes through.
        pipe: how it is cut.
        values: operands of the one and the other, and what else is read, as far as it is known.
        unread: results of either that nobody reads.
        known: what came in for other loops.
    """
    there = Stages(forward, pipe, passage.given)
    back = Stages(backward, pipe, passage.feeds | passage.shared.keys())
    sides = (there, back)
    entering = [(side, k) for side in (0, 1) for k in sides[side].entering]
    specs = [sides[side].spec_in(k) for side, k in entering]
    operands = [sides[side].entered(k, values[side][k], known) for side, k in entering]
    for each, value in zip(passage.reads, values[2], strict=True):
        split = each.state.part is Part.SPLIT
        specs.append(spec_of({each.state.dim: DATA} if split else {}))
        operands.append(value)
    out = (
        [*there.leaving(unread[0])],
        [*back.leaving(unread[1])],
        [_leaving(k, x, pipe, pipe.dealt) for k, x in enumerate(passage.between.leaves)],
        [_leaving(k, x, pipe, False) for k, x in enumerate(passage.after.leaves)],
    )

    def local(stage: Any, shard: Any, args: Sequence[Any]) -> list[Any]:
        own: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        for (side, k), value in zip(entering, args, strict=False):
            own[side][k] = value
        devices = [OnDevice(x, stage, shard, y) for x, y in zip(sides, own, strict=True)]
        work = _Work(devices[0], devices[1], passage, args[len(entering) :])
        ended = work.ended([{each.key for each in one} for one in out[:2]])
        return [each.local(end) for one, end in zip(out, ended, strict=True) for each in one]

    every = [each for one in out for each in one]
    wholes = iter(on_stages(pipe, local, specs, operands, every))
    return Made(*({each.key: next(wholes) for each in one} for one in out))


def _leaving(k: int, passing: Passing, pipe: Pipeline, is_dealt: bool) -> Leaving:
    if passing.state.part is Part.SUM:
        return leaving.total(k, _compat.dtype_of(passing.small))
    return leaving.last(k, passing.state.dim, pipe, is_dealt=is_dealt)


class _Left(NamedTuple):
    """What leaves a way, by number: sums so far, and rows `[microbatches + 1, ...]`."""

    sums: dict[int, Any]
    rows: dict[int, Any]


class _Turning(NamedTuple):
    """What of `stages` microbatches waits at the last stage, `[stages, ...]`.

    Attributes:
        came: what came there, by result of the forward loop.
        feeds: what goes back from there, by operand of the backward loop.
    """

    came: dict[int, Any]
    feeds: dict[int, Any]


class _Held(NamedTuple):
    """What one stage holds between two ticks.

    Attributes:
        there, back: of either loop.
        kept: what is kept for the way back, `[microbatches at once, layers, ...]`.
        made_there, made_back: results of either loop that differ from microbatch to microbatch,
            `[microbatches + 1, ...]`, the last for what is none.
        between, after: what leaves them.
        turning: what waits at the last stage, where what lies between is dealt out.
    """

    there: Running
    back: Running
    kept: dict[int, Any]
    made_there: dict[int, Any]
    made_back: dict[int, Any]
    between: _Left
    after: _Left
    turning: _Turning


class _Work:
    """What one device does.

    Args:
        there: its share of the loop.
        back: of its mirror image.
        passage: what a microbatch goes through.
        known: what that reads.
    """

    def __init__(
        self, there: OnDevice, back: OnDevice, passage: Passage, known: Sequence[Any]
    ) -> None:
        self.there, self.back, self.passage = there, back, passage
        self.pipe = pipe = there.pipe
        self.size = Resize(pipe.data * pipe.microbatches)
        self.dealt, self.known = dict[Any, Any](), dict[Any, Any]()
        for each, value in zip(passage.reads, known, strict=True):
            if each.state.part is Part.SPLIT:
                self.dealt[each.small] = leaving.parts(value, each.state.dim, pipe.microbatches)
            else:
                self.known[each.small] = value
        # What is kept: operand of the backward loop -> result of the forward loop.
        made: dict[Any, int] = {v: k for k, v in enumerate(there.loop.big.outvars)}
        self.slots = {k: made[back.loop.big.invars[k]] for k in sorted(back.loop.ticked)}

    def ended(self, wanted: Sequence[set[int]]) -> tuple[Ended, ...]:
        """All ticks.

        Args:
            wanted: results of the forward loop, and of the backward loop.

        Returns:
            What there is then of the two, between, and after.
        """
        n, m = self.pipe.stages, self.pipe.microbatches
        turn, end = self.pipe.turns_at, n - 1 + m
        whens = jnp.arange(turn + end, dtype=jnp.int32)
        held = self._start(*wanted)
        held, _ = jax.lax.scan(self._only_there, held, whens[:turn])
        if self.pipe.dealt:
            held = self._dealt_out(held, 0)
            if m > n:
                groups = jnp.arange(1, m // n, dtype=jnp.int32), whens[turn:end].reshape(-1, n)
                held, _ = jax.lax.scan(self._group, held, groups)
        else:
            held, _ = jax.lax.scan(self._both, held, whens[turn:end])
        held, _ = jax.lax.scan(self._only_back, held, whens[end:])
        return (
            _ended(self.there, held.there, _some(held.made_there, m)),
            _ended(self.back, held.back, _some(held.made_back, m)),
            *(
                Ended(device.place, left.sums, last=_some(left.rows, m))
                for device, left in ((self.there, held.between), (self.back, held.after))
            ),
        )

    def _start(self, there: set[int], back: set[int]) -> _Held:
        more = self.pipe.microbatches + 1
        stages = self.there.stages
        return _Held(
            self.there.start(),
            self.back.start(),
            kept={k: stages.part_zeros(k, self.pipe.at_once) for k in self.slots.values()},
            made_there={k: stages.part_zeros(k, more) for k in stages.split if k in there},
            made_back={
                k: self.back.stages.part_zeros(k, more) for k in self.back.stages.split if k in back
            },
            between=self._nothing_left(self.passage.between),
            after=self._nothing_left(self.passage.after),
            turning=self._nothing_turning(),
        )

    def _nothing_turning(self) -> _Turning:
        if not self.pipe.dealt:
            return _Turning({}, {})
        read = {v for _, small in self.passage.between.eqns for v in variables(small)}
        came = [k for k, v in enumerate(self.there.loop.small.outvars) if v in read]

        def rooms(zeros: Any) -> Any:
            return jnp.broadcast_to(zeros, (self.pipe.stages, *zeros.shape))

        return _Turning(
            {k: self.there.stages.part_zeros(k, self.pipe.stages) for k in came},
            {k: rooms(self.back.stages.operand_zeros(k)) for k in sorted(self.passage.feeds)},
        )

    def _nothing_left(self, way: Way) -> _Left:
        left = _Left({}, {})
        for k, each in enumerate(way.leaves):
            shape, dtype = self.size.shape(each.big, each.small), _compat.dtype_of(each.small)
            if each.state.part is Part.SUM:
                left.sums[k] = jnp.zeros(shape, wide(dtype))
            else:
                left.rows[k] = jnp.zeros((self.pipe.microbatches + 1, *shape), dtype)
        return left

    # -- ticks -----------------------------------------------------------------------------------

    def _only_there(self, held: _Held, when: Any) -> tuple[_Held, None]:
        return self._forward(held, when)[0], None

    def _both(self, held: _Held, when: Any) -> tuple[_Held, None]:
        held, outs = self._forward(held, when)
        # On the last stage, the microbatch that goes back is the one that just came.
        order = when - self.there.place
        came = {self.there.loop.small.outvars[k]: value for k, value in outs.items()}
        visit = self.there.visit(order)
        env = self._along(self.passage.between, came, visit)
        left = self._left(self.passage.between, held.between, env, order, visit)
        return self._backward(held._replace(between=left), when, self._feeds(env)), None

    def _only_back(self, held: _Held, when: Any) -> tuple[_Held, None]:
        if self.pipe.dealt:
            return self._backward(held, when, self._waiting(held, when)), None
        # The last stage has sent all of them back.
        feeds = {k: self.back.stages.operand_zeros(k) for k in sorted(self.passage.feeds)}
        return self._backward(held, when, feeds), None

    def _feeds(self, env: Mapping[Any, Any]) -> dict[int, Any]:
        """What goes back, of what a microbatch made between."""
        return {k: env[self.back.loop.small.invars[k]] for k in sorted(self.passage.feeds)}

    # -- between, dealt out ------------------------------------------------------------------------

    def _group(self, held: _Held, at: tuple[Any, Any]) -> tuple[_Held, None]:
        """As many ticks as there are stages, and what lies between for those that came."""
        group, whens = at
        held, _ = jax.lax.scan(self._passing, held, whens)
        return self._dealt_out(held, group), None

    def _passing(self, held: _Held, when: Any) -> tuple[_Held, None]:
        """One there, and one back that came before."""
        feeds = self._waiting(held, when)
        held, _ = self._forward(held, when)
        return self._backward(held, when, feeds), None

    def _waiting(self, held: _Held, when: Any) -> dict[int, Any]:
        """What goes back from the last stage now."""
        slot = (when - self.pipe.turns_at) % self.pipe.stages
        return {k: rows[slot] for k, rows in held.turning.feeds.items()}

    def _dealt_out(self, held: _Held, group: Any) -> _Held:
        """What lies between for the microbatches that came last, one on every stage."""
        n, came = self.pipe.stages, {}
        for k, rows in held.turning.came.items():
            own = leaving.of_last(rows, self.there.place, n)
            own = jax.lax.psum_scatter(own, PIPE, scatter_dimension=0, tiled=True)
            came[self.there.loop.small.outvars[k]] = own[0]
        number, always = group * n + self.there.stage, jnp.asarray(True)
        visit = Visit(number, always, 0, always, always)
        env = self._along(self.passage.between, came, visit)
        left = self._left(self.passage.between, held.between, env, number, visit)
        feeds = {
            k: jax.lax.all_gather(value.astype(held.turning.feeds[k].dtype), PIPE)
            for k, value in self._feeds(env).items()
        }
        return held._replace(between=left, turning=held.turning._replace(feeds=feeds))

    # -- either way --------------------------------------------------------------------------------

    def _forward(self, held: _Held, when: Any) -> tuple[_Held, dict[int, Any]]:
        order = when - self.there.place
        visit = self.there.visit(order)
        env = self._along(self.passage.before, {}, visit)
        given = {k: env[self.there.loop.small.invars[k]] for k in sorted(self.passage.given)}
        there, outs = self.there.microbatch(held.there, visit, given)
        slot = self._place_of(order) % self.pipe.at_once
        kept = {k: _put(rows, outs[k], slot) for k, rows in held.kept.items()}
        made = self._noted(held.made_there, outs, order)
        # At the last stage; what others write is not looked at.
        slot = (when - (self.pipe.stages - 1)) % self.pipe.stages
        came = {k: _put(rows, outs[k], slot) for k, rows in held.turning.came.items()}
        turning = held.turning._replace(came=came)
        return held._replace(there=there, kept=kept, made_there=made, turning=turning), outs

    def _backward(self, held: _Held, when: Any, feeds: Mapping[int, Any]) -> _Held:
        order = when - self.pipe.turns_at - self.back.place
        visit = self.back.visit(order)
        slot = visit.number % self.pipe.at_once
        read = {k: held.kept[made][slot] for k, made in self.slots.items()}
        # Every stage has had a microbatch by now, and what all of them share.
        shared = {k: held.there.latest[made] for k, made in self.passage.shared.items()}
        own = {**read, **shared, **feeds}
        back, outs = self.back.microbatch(held.back, visit, own)
        came = {self.back.loop.small.outvars[k]: value for k, value in outs.items()}
        env = self._along(self.passage.after, came, visit)
        return held._replace(
            back=back,
            made_back=self._noted(held.made_back, outs, order),
            after=self._left(self.passage.after, held.after, env, order, visit),
        )

    def _along(self, way: Way, came: Mapping[Any, Any], visit: Visit) -> dict[Any, Any]:
        """What a microbatch makes on a way, of what comes from a loop."""
        env = {each.small: self._part(each.small, visit.number) for each in way.reads} | dict(came)
        for big, small in way.eqns:
            with _compat.as_if_traced_at(small):
                made = self.size.bind(big, small, [value_of(v, env) for v in small.invars])
            env.update(zip(small.outvars, made, strict=True))
        return env

    def _part(self, var: Any, number: Any) -> Any:
        """What a microbatch has of what is known before."""
        return self.dealt[var][number] if var in self.dealt else self.known[var]

    def _left(
        self, way: Way, left: _Left, env: Mapping[Any, Any], order: Any, visit: Visit
    ) -> _Left:
        """With what leaves a way now, if it counts here."""
        outs = {k: env[each.small] for k, each in enumerate(way.leaves)}
        sums = {
            k: total + jnp.where(visit.last, outs[k], 0).astype(total.dtype)
            for k, total in left.sums.items()
        }
        return _Left(sums, self._noted(left.rows, outs, order))

    def _place_of(self, order: Any) -> Any:
        """Where a microbatch is noted; one that is none, where nothing is read any more."""
        return jnp.clip(order, 0, self.pipe.microbatches)

    def _noted(
        self, rows: Mapping[int, Any], outs: Mapping[int, Any], order: Any
    ) -> dict[int, Any]:
        at = self._place_of(order)
        return {k: _put(row, outs[k], at) for k, row in rows.items()}


def _ended(device: OnDevice, running: Running, made: dict[int, Any]) -> Ended:
    carried = {k: v for k, v in made.items() if k < device.stages.n_carry}
    rows = {k: v for k, v in made.items() if k not in carried}
    return Ended(device.place, running.sums, running.latest, last=carried, rows=rows)


def _some(rows: Mapping[int, Any], n: int) -> dict[int, Any]:
    return {k: v[:n] for k, v in rows.items()}


def _put(rows: Any, value: Any, at: Any) -> Any:
    return jax.lax.dynamic_update_index_in_dim(rows, value.astype(rows.dtype), at, 0)
