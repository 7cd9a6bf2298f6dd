"""Which tensors are in memory, platform by platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from autoshard.cost.habits import habits_of
from autoshard.cost.liveness import liveness
from autoshard.program.ir import Program
from tests.search.programs import floats, traced


def program(fn: Callable[..., Any], *args: Any) -> Program:
    return traced(fn, *args).program


def stored(of: Program, kind: str, platform: str) -> list[bool]:
    """Whether the results of the ops of a kind are stored."""
    live = liveness(of, habits_of(platform))
    return [live.is_stored(o) for op in of.ops if op.kind == kind for o in op.outputs]


def test_a_softmax_is_made_as_a_matmul_reads_it_on_a_tpu_alone() -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k, axis=-1) @ v

    found = program(attend, floats(8, 4), floats(4, 8), floats(8, 4))
    assert stored(found, "div", "tpu") == [False]
    assert stored(found, "div", "gpu") == [True]
    assert stored(found, "dot_general", "tpu") == [True, True]


def test_an_activation_is_made_where_its_matmul_is_and_stored() -> None:
    found = program(lambda x, a, b: jnp.tanh(x @ a) @ b, floats(8, 4), floats(4, 8), floats(8, 4))
    assert stored(found, "tanh", "tpu") == [True]


def test_what_is_sliced_or_padded_is_in_memory_on_a_tpu() -> None:
    def shifted(x: jax.Array) -> jax.Array:
        y = jnp.exp(x)
        return jnp.sum(jnp.pad(y[1:], ((0, 1), (0, 0))) * jnp.sin(x))

    found = program(shifted, floats(8, 4))
    assert stored(found, "exp", "tpu") == stored(found, "pad", "tpu") == [True]
    assert stored(found, "exp", "gpu") == stored(found, "pad", "gpu") == [False]


def test_a_reshape_of_the_minor_dimension_reads_memory_on_a_tpu() -> None:
    grouped = program(lambda x: jnp.sum(jnp.exp(x).reshape(8, 2, 2) ** 2, axis=2), floats(8, 4))
    batched = program(lambda x: jnp.sum(jnp.exp(x).reshape(2, 4, 4) ** 2, axis=2), floats(8, 4))
    assert stored(grouped, "exp", "tpu") == [True]
    assert stored(batched, "exp", "tpu") == stored(grouped, "exp", "gpu") == [False]


def test_a_loop_makes_the_broadcasts_it_reads() -> None:
    def masked(x: jax.Array, row: jax.Array) -> jax.Array:
        wide = jnp.broadcast_to(row, x.shape)
        return jax.lax.scan(lambda x, _: (jnp.where(wide > 0, x, 0), None), x, length=3)[0]

    found = program(masked, floats(8, 4), floats(4))
    for platform in ("cpu", "gpu", "tpu"):
        assert not any(stored(found, "broadcast_in_dim", platform))


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_the_gradient_of_picked_numbers_takes_no_array_of_its_own(platform: str) -> None:
    """Cross-entropy: on a GPU the scatter goes into the rest of the gradient, on a TPU none is."""

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        picked = jnp.take_along_axis(logits, labels[:, None], axis=1)
        return jnp.sum(jax.nn.logsumexp(logits, axis=1) - picked[:, 0])

    found = program(
        jax.grad(lambda x, w, y: loss(x @ w, y), argnums=1),
        floats(8, 4),
        floats(4, 16),
        jax.ShapeDtypeStruct((8,), "int32"),
    )
    live = liveness(found, habits_of(platform))
    scatter = next(op for op in found.ops if op.kind.startswith("scatter"))
    out = scatter.outputs[0]
    if platform == "gpu":
        assert live.buffer[out] != out
        assert not live.is_stored(scatter.inputs[0])
    else:
        assert not live.is_stored(out)


def test_a_gradient_of_a_parameter_is_made_late_on_a_tpu_and_others_are_not() -> None:
    def step(w: jax.Array, v: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        gw, gv = jax.grad(lambda w, v: jnp.sum(jnp.tanh(x @ w) @ v), argnums=(0, 1))(w, v)
        return w - gw, v - gv, gw * gw, gv * gv

    found = program(step, floats(4, 8), floats(8, 4), floats(16, 4))
    live = liveness(found, habits_of("tpu"))
    plain = liveness(found, habits_of("cpu"))
    products = [op for op in found.ops if op.kind == "dot_general"]
    kept = [op for op in products if live.is_stored(op.outputs[0])]
    late = [op for op in kept if live.lifetimes[op.outputs[0]].start > op.id]  # type: ignore[union-attr]
    assert late
    assert products[0] not in late  # of the forward pass
    assert not any(
        plain.lifetimes[op.outputs[0]].start > op.id  # type: ignore[union-attr]
        for op in products
    )


@pytest.mark.parametrize("is_read_again", [False, True])
def test_what_enters_code_for_one_shard_takes_the_place_of_what_nothing_else_reads(
    is_read_again: bool,
) -> None:
    """It may be laid out anew there; and if it is not, it is the same buffer while both live."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def step(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        y = x @ w
        own = jax.shard_map(
            lambda y, w: (y @ w) @ w,
            mesh=mesh,
            in_specs=(PartitionSpec("a"), PartitionSpec()),
            out_specs=PartitionSpec("a"),
            axis_names={"a"},
            check_vma=False,
        )
        return (own(y, w), y) if is_read_again else (own(y, w),)

    found = program(step, floats(8, 16), floats(16, 16))
    live = liveness(found, habits_of("gpu"))
    enters = next(op for op in found.ops if op.kind == "manual_in")
    inside, outside = enters.outputs[0], enters.inputs[0]
    assert outside is not None
    assert (live.buffer[inside] == live.buffer[outside]) == is_read_again
    if not is_read_again:
        before, after = live.lifetimes[outside], live.lifetimes[inside]
        assert before is not None
        assert after is not None
        assert before.end < after.start
