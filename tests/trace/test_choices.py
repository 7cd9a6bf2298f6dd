"""How often branches are taken, where a table of constants says so."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard._compat import abstract_mesh
from autoshard.trace.function import trace
from autoshard.trace.signature import signature

WEIGHTS, X = jnp.ones((6, 8, 8)), jnp.ones((4, 8))
KINDS = np.array([0, 1, 1, 2, 1, 0], dtype=np.int32)


def shares(fn: Any, *args: Any) -> list[tuple[int, int]]:
    """Of every branch, how often it is taken and come by in one step."""
    names = [f"arg{i}" for i in range(len(args))]
    program = trace(fn, signature(args, names), name="step").program
    regions = [region.id for region in program.regions if region.kind == "branch"]
    return [(program.times(r), program.comes_by(r)) for r in regions]


def layers(weights: jax.Array, x: jax.Array, kinds: Any) -> jax.Array:
    def layer(x: jax.Array, at: Any) -> tuple[jax.Array, None]:
        w, kind = at
        branches = [lambda x, w: x, lambda x, w: x @ w, lambda x, w: jnp.tanh(x @ w) @ w]
        return jax.lax.switch(kind, branches, x, w), None

    return jax.lax.scan(layer, x, (weights, kinds))[0]


def test_a_table_says_how_often_each_branch_is_taken() -> None:
    assert shares(lambda w, x: layers(w, x, KINDS), WEIGHTS, X) == [(2, 6), (3, 6), (1, 6)]


def test_loops_around_are_counted_too() -> None:
    def twice(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (layers(w, x, KINDS), None), x, None, length=2)[0]

    assert shares(twice, WEIGHTS, X) == [(4, 12), (6, 12), (2, 12)]


def test_what_is_known_when_it_runs_counts_as_taken_every_time() -> None:
    kinds = jnp.asarray(KINDS)
    assert shares(layers, WEIGHTS, X, kinds) == [(6, 6), (6, 6), (6, 6)]


def test_the_shard_with_most_work_counts() -> None:
    mesh = abstract_mesh({"pipe": 2, "data": 2})
    spec = jax.sharding.PartitionSpec

    def stages(w: jax.Array, x: jax.Array, kinds: Any) -> jax.Array:
        return jax.shard_map(
            layers,
            mesh=mesh,
            in_specs=(spec("pipe"), spec(), spec("pipe")),
            out_specs=spec(),
            axis_names={"pipe"},
            check_vma=False,
        )(w, x, kinds)

    # The first three layers, or the last: those have the product of two.
    found = shares(lambda w, x: stages(w, x, KINDS), WEIGHTS, X)
    assert found == [(1, 3), (1, 3), (1, 3)]
    # What only the other stage has counts once, so that it is not laid out as if it were free.
    found = shares(lambda w, x: stages(w, x, np.array([0, 0, 1, 2, 2, 2], np.int32)), WEIGHTS, X)
    assert found == [(1, 3), (1, 3), (3, 3)]
