"""Code for one shard that leaves axes to us: planned inside, its collectives priced."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from autoshard import autoshard

# Name -> what one shard of `[8, 16]` over `a` makes of its own `[4, 16]`, how the results lie, and
# the collective that is expected.
SENDS: dict[str, tuple[Callable[[jax.Array], jax.Array], PartitionSpec, str]] = {
    "ppermute": (lambda x: lax.ppermute(x, "a", [(0, 1), (1, 0)]), PartitionSpec("a"), "permute"),
    "psum": (lambda x: lax.psum(x, "a"), PartitionSpec(), "all-reduce"),
    "pmax": (lambda x: lax.pmax(x, "a"), PartitionSpec(), "all-reduce"),
    "pmin": (lambda x: lax.pmin(x, "a"), PartitionSpec(), "all-reduce"),
    "all_gather": (lambda x: lax.all_gather(x, "a"), PartitionSpec(None, None), "all-gather"),
    "all_gather, tiled": (
        lambda x: lax.all_gather(x, "a", tiled=True),
        PartitionSpec(),
        "all-gather",
    ),
    "reduce_scatter": (
        lambda x: lax.psum_scatter(x, "a", tiled=True),
        PartitionSpec("a"),
        "reduce-scatter",
    ),
    "all_to_all": (
        lambda x: lax.all_to_all(x, "a", 0, 1, tiled=True),
        PartitionSpec(None, "a"),
        "all-to-all",
    ),
}


@pytest.mark.parametrize("name", SENDS)
def test_collectives_of_one_shard_are_kept_and_priced(name: str) -> None:
    send, out, kind = SENDS[name]
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        own = jax.shard_map(
            lambda h: send(jnp.sin(h @ w)),
            mesh=mesh,
            in_specs=PartitionSpec("a"),
            out_specs=out,
            axis_names={"a"},
            check_vma=False,
        )
        return own(x) * 2

    w = jnp.linspace(-1, 1, 16 * 16).reshape(16, 16)
    x = jnp.linspace(-2, 1, 8 * 16).reshape(8, 16)
    sharded = autoshard(step, time_limit_s=1)
    np.testing.assert_allclose(sharded(w, x), jax.jit(step)(w, x), rtol=1e-5, atol=1e-6)
    assert dict(sharded.plan.mesh.sizes) == {"a": 2, "b": 4}
    assert (kind, ("a",)) in {(c.kind, c.axes) for c in sharded.plan.collectives}
    assert not any("kept whole" in note for note in sharded.plan.notes)


def test_numbers_of_shards_are_known() -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def step(x: jax.Array) -> jax.Array:
        return jax.shard_map(
            lambda h: h + lax.axis_index("a"),
            mesh=mesh,
            in_specs=PartitionSpec("a"),
            out_specs=PartitionSpec("a"),
            axis_names={"a"},
            check_vma=False,
        )(x)

    x = jnp.zeros((8, 16))
    np.testing.assert_array_equal(autoshard(step, time_limit_s=1)(x)[:, 0], [0] * 4 + [1] * 4)
