"""What was widened is laid out for its readers as it was before: half as much is sent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from autoshard import autoshard

P = PartitionSpec


@pytest.mark.parametrize(
    ("narrow", "sent_as", "written"),
    [
        ("bfloat16", "bfloat16", "bf16"),
        ("float16", "float16", "f16"),
        ("int32", "", "f32"),  # not every number of it is a float of 32 bits
    ],
)
def test_it_is_laid_out_as_it_was(narrow: str, sent_as: str, written: str) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, columns = (NamedSharding(mesh, spec) for spec in (P("data"), P(None, "data")))

    def step(x: jax.Array) -> jax.Array:
        wide = jax.lax.with_sharding_constraint(x, rows).astype("float32")
        return wide.sum() + jax.lax.with_sharding_constraint(wide, columns)

    x = jnp.arange(8 * 16).reshape(8, 16).astype(narrow)
    planned = autoshard(step, mesh={"data": 8})
    text = planned.lower(x).as_text()
    (use,) = [c for c in planned.plan.constraints if c.slot == "operand 0" and c.dtype == "float32"]
    assert use.sent_as == sent_as
    first = next(
        line for line in text.splitlines() if "constraint" in line and '{}, {"data"}' in line
    )
    assert first.endswith(f"tensor<8x16x{written}>")
    np.testing.assert_array_equal(planned(x), step(x))
