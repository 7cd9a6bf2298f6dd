"""All microbatches forward, then all of them back (GPipe, Huang et al. 2019, arXiv:1811.06965).

Every stage takes one microbatch per *tick*, and `stages - 1` ticks after the first all of them
work. The backward loop of the same layers goes over the ticks of the forward loop from the last to
the first: the values that it reads of them are then those of its own microbatch on every stage, and
never leave the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from autoshard import _compat
from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace import leaving
from autoshard.trace.leaving import Ended, Leaving, Spec, spec_of
from autoshard.trace.loop import Loop
from autoshard.trace.stages import MANUAL, Entered, OnDevice, Stages


def on_stages(
    pipe: Pipeline,
    local: Callable[[Any, Any, Sequence[Any]], Sequence[Any]],
    specs: Sequence[Spec],
    values: Sequence[Any],
    out: Sequence[Leaving],
) -> list[Any]:
    """Run code for one device on all of them.

    Args:
        pipe: how many there are.
        local: (number of the stage, of the shard of the batch, operands) -> results.
        specs: of the operands.
        values: the operands.
        out: what the results are.

    Returns:
        What is made of each.
    """

    def run(stages: Any, shards: Any, *args: Any) -> Sequence[Any]:
        return local(stages[0], shards[0], args)

    counters = (
        jnp.arange(pipe.stages, dtype=jnp.int32),
        jnp.arange(pipe.data, dtype=jnp.int32),
    )
    wholes = _compat.shard_map(
        run,
        _compat.abstract_mesh(pipe.sizes),
        in_specs=(Spec(PIPE), Spec(DATA), *specs),
        out_specs=[each.spec for each in out],
        manual=MANUAL,
    )(*counters, *values)
    return [each.finish(whole) for each, whole in zip(out, wholes, strict=True)]


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
    backwards, last = bool(ticked), pipe.microbatches - 1

    def tick(running: Any, at: tuple[Any, dict[int, Any]]) -> tuple[Any, Any]:
        when, given = at
        order = when - device.place
        number = jnp.clip(order, 0, last)
        valid = (order >= 0) & (order <= last)
        running, outs = device.microbatch(
            running, last - number if backwards else number, valid, given
        )
        return running, {k: outs[k] for k in stages.split}

    whens = jnp.arange(pipe.ticks, dtype=jnp.int32)
    whens = whens[::-1] if backwards else whens
    running, stacked = jax.lax.scan(tick, device.start(), (whens, ticked), reverse=backwards)
    if backwards:
        # Stacked where the mirror image's ticks are: the last one came first.
        stacked = {k: jnp.flip(v, 0) for k, v in stacked.items()}

    def by_number(rows: Any) -> Any:
        return jnp.flip(rows, 0) if backwards else rows

    return Ended(
        device.place,
        running.sums,
        running.latest,
        last={k: by_number(v[pipe.stages - 1 :]) for k, v in stacked.items() if k < stages.n_carry},
        rows={
            k: by_number(jax.lax.dynamic_slice_in_dim(v, device.place, pipe.microbatches))
            for k, v in stacked.items()
            if k in loop.whole
        },
        ticks={k: v for k, v in stacked.items() if k in loop.kept},
    )
