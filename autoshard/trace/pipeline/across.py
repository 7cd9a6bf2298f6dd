"""Code for one stage, run on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from autoshard import _compat
from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace.pipeline.leaving import Leaving, Spec

# The axes that the code of a stage takes in its own hands.
MANUAL = frozenset({PIPE, DATA})


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
