"""Writes to few places of an array that is split along what they are looked up in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard import autoshard

STEPS = {
    "one column": lambda a, i, u: a.at[:, i[:1]].set(u[:, :1]),
    "one column, added": lambda a, i, u: a.at[:, i[:1]].add(u[:, :1]),
    "one column, the larger": lambda a, i, u: a.at[:, i[:1]].max(u[:, :1]),
    "one element": lambda a, i, u: a.at[i[0], i[1]].set(u[0, 0]),
    "one of each row": jax.vmap(lambda a, i, u: a.at[i].set(u[0])),
    "one of each row, by number": lambda a, i, u: a.at[jnp.arange(8), i].add(u[:, 0]),
    "two columns": lambda a, i, u: a.at[:, i[:2]].set(u[:, :2]),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    "spec", [P("data", "tensor"), P(None, "tensor"), P("data", None), P("tensor", "data")], ids=str
)
def test_a_shard_without_the_place_stays_as_it_was(name, spec):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def laid_out(a):
        return jax.lax.with_sharding_constraint(a, NamedSharding(mesh, spec))

    def step(a, i, u):
        # Whole before: the shards are slices that XLA may see through.
        a = jax.lax.with_sharding_constraint(a, NamedSharding(mesh, P()))
        return laid_out(STEPS[name](laid_out(a), i, u))

    sharded = autoshard(step)
    a, u = jnp.arange(64.0).reshape(8, 8) + 1, -jnp.arange(64.0).reshape(8, 8)
    for shift in (0, 5, 9):  # 9: some places are outside, and nothing is written there
        i = jnp.arange(8) * 3 % 8 + shift
        whole = jax.jit(STEPS[name])(a, i, u)
        np.testing.assert_array_equal(sharded(a, i, u), whole, err_msg=f"from {shift}")
