"""What leaves the stages of a pipeline: how one array of a loop's results is put together.

Every function describes one array: how a device makes its part of it once the last tick is over,
where the parts lie in the whole, and what is made of the whole outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from autoshard.plan.pipeline import DATA, PIPE, Pipeline
from autoshard.trace.microbatch import wide

Spec = PartitionSpec
# A stack over layers as stages hold them -> in the order of the loop.
InOrder = Callable[[Any], Any]


@dataclass(frozen=True)
class Ended:
    """What one stage holds after the last tick.

    Attributes:
        place: of the stage, on the microbatches' way.
        sums: over the batch, by result.
        latest: what is the same for all microbatches, by result.
        last: what the last place makes of every microbatch, by result; `[microbatches, ...]`.
        rows: what every layer makes of every microbatch, likewise; `[microbatches, layers, ...]`.
        ticks: what is read tick by tick, by result; `[ticks, layers, ...]`.
    """

    place: Any
    sums: dict[Any, Any] = field(default_factory=dict)
    latest: dict[Any, Any] = field(default_factory=dict)
    last: dict[Any, Any] = field(default_factory=dict)
    rows: dict[Any, Any] = field(default_factory=dict)
    ticks: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaving:
    """One array.

    Attributes:
        key: which.
        spec: of the whole.
        local: on one device.
        finish: makes what is wanted of the whole.
        is_ticks: whether it is a result tick by tick, and not the result.
    """

    key: Any
    spec: Spec
    local: Callable[[Ended], Any]
    finish: Callable[[Any], Any] = lambda whole: whole
    is_ticks: bool = False


def spec_of(axes: dict[int, Any]) -> Spec:
    """A spec from what lies on some dimensions."""
    return Spec(*(axes.get(d) for d in range(max(axes, default=-1) + 1)))


def total(key: Any, dtype: Any) -> Leaving:
    """A sum over the batch: one term per device, added up outside."""
    return Leaving(
        key,
        spec_of({0: (PIPE, DATA)}),
        lambda end: end.sums[key].astype(dtype)[None],
        lambda whole: jax.lax.reduce_sum(whole, axes=(0,)),
    )


def layers_total(key: Any, dtype: Any, in_order: InOrder) -> Leaving:
    """A sum over the batch for every layer: one term per shard of `data`, added up outside."""
    return Leaving(
        key,
        spec_of({0: DATA, 1: PIPE}),
        lambda end: end.sums[key].astype(dtype)[None],
        lambda whole: in_order(jax.lax.reduce_sum(whole, axes=(0,))),
    )


def same(key: Any, at: int) -> Leaving:
    """What no example has to do with, as one stage has it last."""
    return Leaving(
        key, spec_of({0: PIPE}), lambda end: end.latest[key][None], lambda whole: whole[at]
    )


def layers_same(key: Any, in_order: InOrder) -> Leaving:
    """The same for every layer."""
    return Leaving(key, spec_of({0: PIPE}), lambda end: end.latest[key], in_order)


def last(key: Any, dim: int, pipe: Pipeline, *, is_dealt: bool = False) -> Leaving:
    """What the last place makes of every microbatch, dealt out over all stages.

    Args:
        key: which.
        dim: on which the batch is.
        pipe: how layers are cut.
        is_dealt: whether some place makes it, each of its own microbatches, and zeros of others'.
    """
    n = pipe.stages
    scatter = pipe.microbatches % n == 0

    def local(end: Ended) -> Any:
        made = end.last[key]
        own = made if is_dealt else of_last(made, end.place, n)
        if not scatter:
            # XLA's CPU compiler ends the process at narrow sums; of one term no digit is lost.
            own = jax.lax.psum(own.astype(wide(own.dtype)), PIPE).astype(own.dtype)
            return joined(own, dim)
        own = jax.lax.psum_scatter(own, PIPE, scatter_dimension=0, tiled=True)
        return joined(own, dim)

    return Leaving(key, spec_of({dim: (DATA, PIPE) if scatter else DATA}), local)


def of_last(rows: Any, place: Any, stages: int) -> Any:
    """What the last place has, and zeros elsewhere: a term of a sum over stages."""
    return jnp.where(place == stages - 1, rows, jnp.zeros_like(rows))


def rows(key: Any, dim: int, in_order: InOrder) -> Leaving:
    """What every layer makes of every microbatch; the batch on dimension `dim` of the stack."""
    return Leaving(
        key,
        spec_of({0: PIPE, dim: DATA}),
        lambda end: joined(end.rows[key], dim),
        in_order,
    )


def ticks(key: Any, dim: int) -> Leaving:
    """The same, tick by tick, for a loop in the other direction."""
    spec = spec_of({1: PIPE, dim + 1: DATA})
    return Leaving(key, spec, lambda end: end.ticks[key], is_ticks=True)


def parts(value: Any, dim: int, n: int) -> Any:
    """`[.., n * size, ..]` as `[n, .., size, ..]`: one slice per microbatch."""
    shape = value.shape
    apart = (*shape[:dim], n, shape[dim] // n, *shape[dim + 1 :])
    return jnp.moveaxis(value.reshape(apart), dim, 0)


def joined(value: Any, dim: int) -> Any:
    """What `parts` undoes."""
    value = jnp.moveaxis(value, 0, dim)
    shape = value.shape
    return value.reshape((*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]))
