"""All microbatches forward, then all of them back (GPipe, Huang et al. 2019, arXiv:1811.06965).

Every stage takes one microbatch per *tick*, and `stages - 1` ticks after the first all of them
work. The backward loop of the same layers goes over the ticks of the forward loop from the last to
the first: the values that it reads of them are then those of its own microbatch on every stage, and
never leave the stage.

With several *chunks* of layers on every stage (the circular, or interleaved, schedule: Narayanan et
al. 2021, arXiv:2104.04473, section 2.2) a microbatch goes round several times, each time through
the next chunk of every stage: ticks are shorter, and as many of them idle. Layers are held in
another order for that than they are stacked in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace.pipeline import leaving
from autoshard.trace.pipeline.across import on_stages
from autoshard.trace.pipeline.leaving import Ended, spec_of
from autoshard.trace.pipeline.loop import Loop
from autoshard.trace.pipeline.stages import Entered, OnDevice, Running, Stages


def run(
    loop: Loop, pipe: Pipeline, values: Mapping[int, Any], known: Entered
) -> tuple[dict[int, Any], dict[int, Any]]:
    """One loop, all microbatches one after the other.

    Args:
        loop: it.
        pipe: how it is cut.
        values: of its operands; those that are ticked as the mirror image kept them.
        known: what came in for other loops.

    Returns:
        By number, its results; and likewise those that are kept tick by tick.
    """
    stages = Stages(loop, pipe)
    out = [*stages.leaving(), *(leaving.ticks(k, loop.outs[k].dim) for k in sorted(loop.kept))]
    ticked = sorted(loop.ticked)
    entering = stages.entering
    specs = [
        *(stages.spec_in(k) for k in entering),
        *(spec_of({1: PIPE, loop.ins[k].dim + 1: DATA}) for k in ticked),
    ]
    operands = [
        *(stages.entered(k, values[k], known) for k in entering),
        *(values[k] for k in ticked),
    ]

    def local(stage: Any, shard: Any, args: Sequence[Any]) -> list[Any]:
        own = dict(zip(entering, args, strict=False))
        device = OnDevice(stages, stage, shard, own)
        ended = _ticks(device, dict(zip(ticked, args[len(entering) :], strict=True)))
        return [each.local(ended) for each in out]

    wholes = on_stages(pipe, local, specs, operands, out)
    made, kept = dict[int, Any](), dict[int, Any]()
    for each, whole in zip(out, wholes, strict=True):
        (kept if each.is_ticks else made)[each.key] = whole
    return made, kept


def _ticks(device: OnDevice, ticked: dict[int, Any]) -> Ended:
    """What a device does, tick by tick."""
    stages, pipe, loop = device.stages, device.pipe, device.loop
    # What reads what its mirror image kept takes the microbatches in the other order.
    backwards = bool(ticked)

    def tick(held: Any, at: tuple[Any, dict[int, Any]]) -> tuple[Any, Any]:
        (running, waiting), (when, given) = held, at
        order = when - device.place
        if pipe.chunks > 1:
            running, waiting = _from_waiting(device, running, waiting, when)
        visit = device.visit(order, backwards=backwards)
        running, outs = device.microbatch(running, visit, given)
        return (running, waiting), {k: outs[k] for k in stages.split}

    whens = jnp.arange(pipe.ticks, dtype=jnp.int32)
    whens = whens[::-1] if backwards else whens
    begin = device.start()
    rooms = pipe.microbatches if pipe.chunks > 1 else 0
    waiting = {
        k: jnp.zeros((rooms, *x.shape), x.dtype)
        for k, x in enumerate(begin.handed)
        if k not in loop.added
    }
    (running, _), stacked = jax.lax.scan(tick, (begin, waiting), (whens, ticked), reverse=backwards)
    if backwards:
        # Stacked where the mirror image's ticks are: the last one came first.
        stacked = {k: jnp.flip(v, 0) for k, v in stacked.items()}

    def by_number(rows: Any) -> Any:
        return jnp.flip(rows, 0) if backwards else rows

    def of_layers(rows: Any) -> Any:
        """`[ticks, layers, ..]` as `[microbatches, layers of the stage, ..]`."""
        visits = pipe.microbatches * pipe.chunks
        rows = by_number(jax.lax.dynamic_slice_in_dim(rows, device.place, visits))
        apart = rows.reshape(pipe.chunks, pipe.microbatches, *rows.shape[1:])
        return jnp.swapaxes(apart, 0, 1).reshape(pipe.microbatches, -1, *rows.shape[2:])

    first = pipe.ticks - pipe.microbatches
    return Ended(
        device.place,
        running.sums,
        running.latest,
        last={k: by_number(v[first:]) for k, v in stacked.items() if k < stages.n_carry},
        rows={k: of_layers(v) for k, v in stacked.items() if k in loop.whole},
        ticks={k: v for k, v in stacked.items() if k in loop.kept},
    )


def _from_waiting(
    device: OnDevice, running: Running, waiting: dict[int, Any], when: Any
) -> tuple[Running, dict[int, Any]]:
    """At the first stage, what comes from the last waits until its next chunk is due."""
    pipe, handed = device.pipe, list(running.handed)
    came, due = when - pipe.stages, when - device.place
    waiting = {
        k: jax.lax.dynamic_update_index_in_dim(rows, handed[k], came % pipe.microbatches, 0)
        for k, rows in waiting.items()
    }
    for k, rows in waiting.items():
        handed[k] = jnp.where(device.place == 0, rows[due % pipe.microbatches], handed[k])
    return running._replace(handed=handed), waiting
