"""What code for one shard sends, where the plan splits it too: in parts, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from autoshard.execute.replay import Replay
from autoshard.execute.shardings import Imposed
from autoshard.verify.groups import groups_of, span

P = PartitionSpec
# Name -> what is sent over `a` of `[4, 8, 16]`, and how the result lies over it.
SENDS: dict[str, tuple[Callable[[jax.Array], jax.Array], P]] = {
    "reduce_scatter": (lambda x: lax.psum_scatter(x, "a", tiled=True), P("a")),
    "all_gather": (lambda x: lax.all_gather(x, "a", tiled=True), P()),
    "all_to_all": (lambda x: lax.all_to_all(x, "a", 0, 1, tiled=True), P(None, "a")),
}


@pytest.mark.parametrize("name", SENDS)
def test_parts_are_sent_as_they_lie(name: str) -> None:
    send, out = SENDS[name]
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    within, outer = NamedSharding(mesh, P(None, None, "b")), NamedSharding(mesh, P("a", None, "b"))

    def step(x: jax.Array) -> jax.Array:
        around = jax.shard_map(
            send, mesh=mesh, in_specs=P("a"), out_specs=out, axis_names={"a"}, check_vma=False
        )
        return around(x)

    x = jnp.arange(8.0 * 8 * 16).reshape(8, 8, 16)
    closed = jax.make_jaxpr(step)(x)
    table = {("0", "in 0"): Imposed((within,)), ("0/0", "result 0"): Imposed((within,))}

    def replayed(x: Any) -> Any:
        return Replay(table, mesh).run(closed.jaxpr, closed.consts, [x])

    compiled = jax.jit(replayed, in_shardings=outer).lower(x).compile()
    np.testing.assert_array_equal(compiled(jax.device_put(x, outer))[0], jax.jit(step)(x))
    # Two devices along `a` send to each other; nobody asks the others along `b`.
    sends = [line for line in compiled.as_text().splitlines() if "replica_groups=" in line]
    spans = {span(groups_of(line, 8), {"a": 2, "b": 4}).axes for line in sends}
    assert spans == {("a",)}
