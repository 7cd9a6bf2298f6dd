"""One microbatch forward, one back: 1F1B (Narayanan et al. 2019, PipeDream, arXiv:1806.03377).

The forward loop, its mirror image and what lies between go over one sequence of ticks. In the first
`stages - 1` of them there is nothing to take back yet, in the last as many nothing to take forward;
in between a stage takes one microbatch forward and one back per tick, which takes as long together
as all forward and then all back. What is kept for the way back is there for at most
`2 * stages - 1` microbatches on the first stage, however many there are: stages wait for each other
after every tick, so that a microbatch is away for two ticks per stage.

What lies between is done by all stages at every tick, and counts on the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autoshard import _compat
from autoshard.plan.pipeline import DATA, Pipeline
from autoshard.trace import leaving
from autoshard.trace.batch import Part
from autoshard.trace.gpipe import on_stages
from autoshard.trace.leaving import Ended, Leaving, spec_of
from autoshard.trace.loop import Between, Loop, Passing
from autoshard.trace.microbatch import wide
from autoshard.trace.resize import Resize
from autoshard.trace.stages import OnDevice, Running, Stages
from autoshard.trace.surgery import value_of


class Made(NamedTuple):
    """What comes out, by number of the result, or of what leaves in between."""

    forward: dict[int, Any]
    backward: dict[int, Any]
    between: dict[int, Any]


def run(
    forward: Loop,
    backward: Loop,
    between: Between,
    pipe: Pipeline,
    values: tuple[Mapping[int, Any], Mapping[int, Any], Sequence[Any]],
    unread: frozenset[int],
) -> Made:
    """A loop over layers, its mirror image, and what lies between.

    Args:
        forward: the loop.
        backward: its mirror image.
        between: it.
        pipe: how it is cut.
        values: operands of the one, the other, and what lies between, as far as they are known.
        unread: results of the forward loop that nobody reads.
    """
    there, back = (
        Stages(forward, pipe),
        Stages(backward, pipe, between.feeds | between.shared.keys()),
    )
    sides = (there, back)
    entering = [(side, k) for side in (0, 1) for k in sides[side].entering]
    specs = [sides[side].spec_in(k) for side, k in entering]
    operands = [sides[side].entered(k, values[side][k]) for side, k in entering]
    for each, value in zip(between.reads, values[2], strict=True):
        split = each.state.part is Part.SPLIT
        specs.append(spec_of({each.state.dim: DATA} if split else {}))
        operands.append(value)
    out = (
        [*there.leaving(unread)],
        [*back.leaving()],
        [_leaving(k, each, pipe) for k, each in enumerate(between.leaves)],
    )

    def local(stage: Any, shard: Any, args: Sequence[Any]) -> list[Any]:
        own: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        for (side, k), value in zip(entering, args, strict=False):
            own[side][k] = value
        known = args[len(entering) :]
        devices = [OnDevice(x, stage, shard, y) for x, y in zip(sides, own, strict=True)]
        work = _Work(devices[0], devices[1], between, known, unread)
        return [each.local(end) for one, end in zip(out, work.ended(), strict=True) for each in one]

    every = [each for one in out for each in one]
    wholes = iter(on_stages(pipe, local, specs, operands, every))
    return Made(*({each.key: next(wholes) for each in one} for one in out))


def _leaving(k: int, passing: Passing, pipe: Pipeline) -> Leaving:
    if passing.state.part is Part.SUM:
        return leaving.total(k, _compat.dtype_of(passing.small))
    return leaving.last(k, passing.state.dim, pipe)


class _Held(NamedTuple):
    """What one stage holds between two ticks.

    Attributes:
        there, back: of either loop.
        kept: what is kept for the way back, `[microbatches at once, layers, ...]`.
        sums: of what lies between.
        made_there, made_between, made_back: results that differ from microbatch to microbatch,
            `[microbatches + 1, ...]`, the last for what is none.
    """

    there: Running
    back: Running
    kept: dict[int, Any]
    sums: dict[int, Any]
    made_there: dict[int, Any]
    made_between: dict[int, Any]
    made_back: dict[int, Any]


class _Work:
    """What one device does."""

    def __init__(
        self,
        there: OnDevice,
        back: OnDevice,
        between: Between,
        known: Sequence[Any],
        unread: frozenset[int],
    ) -> None:
        self.there, self.back, self.between = there, back, between
        self.pipe = pipe = there.pipe
        self.size = Resize(pipe.data * pipe.microbatches)
        self.dealt, self.known = dict[Any, Any](), dict[Any, Any]()
        for each, value in zip(between.reads, known, strict=True):
            if each.state.part is Part.SPLIT:
                self.dealt[each.small] = leaving.parts(value, each.state.dim, pipe.microbatches)
            else:
                self.known[each.small] = value
        # What is kept: result of the forward loop -> operand of the backward loop.
        made: dict[Any, int] = {v: k for k, v in enumerate(there.loop.big.outvars)}
        self.slots = {k: made[back.loop.big.invars[k]] for k in sorted(back.loop.ticked)}
        self.at_once = pipe.at_once
        self.unread = unread

    def ended(self) -> tuple[Ended, Ended, Ended]:
        """All ticks; what there is of the forward loop, the backward loop, and in between."""
        n, m = self.pipe.stages, self.pipe.microbatches
        whens = jnp.arange(m + 2 * (n - 1), dtype=jnp.int32)
        held = self._start()
        held, _ = jax.lax.scan(self._only_there, held, whens[: n - 1])
        held, _ = jax.lax.scan(self._both, held, whens[n - 1 : n - 1 + m])
        held, _ = jax.lax.scan(self._only_back, held, whens[n - 1 + m :])
        return (
            _ended(self.there, held.there, _some(held.made_there, m)),
            _ended(self.back, held.back, _some(held.made_back, m)),
            Ended(self.there.stage, held.sums, last=_some(held.made_between, m)),
        )

    def _start(self) -> _Held:
        stages, more = self.there.stages, self.pipe.microbatches + 1
        sums, made = dict[int, Any](), dict[int, Any]()
        for k, each in enumerate(self.between.leaves):
            shape, dtype = self.size.shape(each.big, each.small), _compat.dtype_of(each.small)
            if each.state.part is Part.SUM:
                sums[k] = jnp.zeros(shape, wide(dtype))
            else:
                made[k] = jnp.zeros((more, *shape), dtype)
        return _Held(
            self.there.start(),
            self.back.start(),
            kept={k: stages.part_zeros(k, self.at_once) for k in self.slots.values()},
            sums=sums,
            made_there={
                k: stages.part_zeros(k, more) for k in _split(self.there) if k not in self.unread
            },
            made_between=made,
            made_back={k: self.back.stages.part_zeros(k, more) for k in _split(self.back)},
        )

    # -- ticks -----------------------------------------------------------------------------------

    def _only_there(self, held: _Held, when: Any) -> tuple[_Held, None]:
        return self._forward(held, when)[0], None

    def _both(self, held: _Held, when: Any) -> tuple[_Held, None]:
        held, outs = self._forward(held, when)
        # On the last stage, the microbatch that goes back is the one that just came.
        order = when - self.there.place
        held, given = self._between(held, outs, order)
        return self._backward(held, when, given), None

    def _only_back(self, held: _Held, when: Any) -> tuple[_Held, None]:
        given = {
            k: self.back.stages.operand_zeros(k) for k in sorted(self.between.feeds)
        }  # the last stage has sent all of them back
        return self._backward(held, when, given), None

    def _forward(self, held: _Held, when: Any) -> tuple[_Held, dict[int, Any]]:
        order = when - self.there.place
        there, outs = self.there.microbatch(held.there, *self._number(order), {})
        slot = self._place_of(order) % self.at_once
        kept = {k: _put(rows, outs[k], slot) for k, rows in held.kept.items()}
        made = self._noted(held.made_there, outs, order)
        return held._replace(there=there, kept=kept, made_there=made), outs

    def _between(
        self, held: _Held, came: Mapping[int, Any], order: Any
    ) -> tuple[_Held, dict[int, Any]]:
        number, valid = self._number(order)
        env = dict(self.known)
        env.update((w, rows[number]) for w, rows in self.dealt.items())
        env.update((self.there.loop.small.outvars[k], value) for k, value in came.items())
        for big, small in self.between.eqns:
            with _compat.as_if_traced_at(small):
                results = self.size.bind(big, small, [value_of(v, env) for v in small.invars])
            env.update(zip(small.outvars, results, strict=True))
        counts = valid & self.there.is_last
        outs = {k: env[each.small] for k, each in enumerate(self.between.leaves)}
        sums = {
            k: total + jnp.where(counts, outs[k], 0).astype(total.dtype)
            for k, total in held.sums.items()
        }
        feeds = {k: env[self.back.loop.small.invars[k]] for k in sorted(self.between.feeds)}
        made = self._noted(held.made_between, outs, order)
        return held._replace(sums=sums, made_between=made), feeds

    def _backward(self, held: _Held, when: Any, given: Mapping[int, Any]) -> _Held:
        order = when - (self.pipe.stages - 1) - self.back.place
        number, valid = self._number(order)
        slot = number % self.at_once
        read = {k: held.kept[made][slot] for k, made in self.slots.items()}
        # Every stage has had a microbatch by now, and what all of them share.
        shared = {k: held.there.latest[made] for k, made in self.between.shared.items()}
        own = {**read, **shared, **given}
        back, outs = self.back.microbatch(held.back, number, valid, own)
        return held._replace(back=back, made_back=self._noted(held.made_back, outs, order))

    def _number(self, order: Any) -> tuple[Any, Any]:
        """Of the microbatch, and whether there is one."""
        m = self.pipe.microbatches
        return jnp.clip(order, 0, m - 1), (order >= 0) & (order < m)

    def _place_of(self, order: Any) -> Any:
        """Where a microbatch is noted; one that is none, where nothing is read any more."""
        return jnp.clip(order, 0, self.pipe.microbatches)

    def _noted(
        self, rows: Mapping[int, Any], outs: Mapping[int, Any], order: Any
    ) -> dict[int, Any]:
        at = self._place_of(order)
        return {k: _put(row, outs[k], at) for k, row in rows.items()}


def _split(device: OnDevice) -> list[int]:
    """Results of a loop that differ from microbatch to microbatch."""
    n_carry, whole = device.stages.n_carry, device.loop.whole
    return [k for k in device.stages.split if k < n_carry or k in whole]


def _ended(device: OnDevice, running: Running, made: dict[int, Any]) -> Ended:
    carried = {k: v for k, v in made.items() if k < device.stages.n_carry}
    rows = {k: v for k, v in made.items() if k not in carried}
    return Ended(device.place, running.sums, running.latest, last=carried, rows=rows)


def _some(rows: Mapping[int, Any], n: int) -> dict[int, Any]:
    return {k: v[:n] for k, v in rows.items()}


def _put(rows: Any, value: Any, at: Any) -> Any:
    return jax.lax.dynamic_update_index_in_dim(rows, value.astype(rows.dtype), at, 0)
