"""What is whole on every device though it is large is said, with the reason."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from autoshard import plan


def _notes(found: object) -> list[str]:
    return [note for note in found.notes if "whole on every device (" in note]  # type: ignore[attr-defined]


def test_a_value_that_no_axis_divides() -> None:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sort(jnp.fft.fft(x @ w).real, axis=1).sum()

    found = plan(step, jnp.ones((511, 777)), jnp.ones((777, 511)), on="cpu:8")
    (note, *_) = _notes(found)
    assert note.startswith("float32[777,777] of dot_general at ")
    assert "test_whole.py:" in note
    assert "MiB" in note
    assert "no dimension that may be split divides by" in note


def test_what_a_primitive_without_a_rule_makes() -> None:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
        return jax.pure_callback(lambda a: a, shape, x @ w).sum()

    found = plan(step, jnp.ones((1024, 1024)), jnp.ones((1024, 1024)), on="cpu:8")
    (note,) = _notes(found)
    assert note.endswith("pure_callback has no sharding rule")


def test_what_can_be_split_is_not_listed() -> None:
    found = plan(
        lambda w, x: (x @ w).sum(), jnp.ones((1024, 1024)), jnp.ones((1024, 1024)), on="cpu:8"
    )
    assert _notes(found) == []


@pytest.mark.parametrize(("vocab", "heads", "batch"), [(50257, 12, 8), (501, 3, 6)])
def test_uneven_sizes_plan_on_eight_devices(vocab: int, heads: int, batch: int) -> None:
    """A vocabulary, heads and a batch that eight does not divide."""

    def step(e: jax.Array, w: jax.Array, tokens: jax.Array) -> jax.Array:
        def loss(e: jax.Array, w: jax.Array) -> jax.Array:
            h = e[tokens]
            q = (h @ w).reshape(*h.shape[:2], heads, -1)
            s = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, q))
            o = jnp.einsum("bhqk,bkhd->bqhd", s, q).reshape(h.shape)
            return -jax.nn.log_softmax(o @ e.T)[..., 0].mean()

        return jax.grad(loss)(e, w)

    width = 64 * heads
    args = (
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
        jax.ShapeDtypeStruct((width, width), jnp.float32),
        jax.ShapeDtypeStruct((batch, 32), jnp.int32),
    )
    found = plan(step, *args, on="v5e:2x4")
    large = [
        leaf for leaf in found.inputs if leaf.spec.is_replicated and leaf.bytes_per_device >= 2**20
    ]
    assert all("whole on every device" in leaf.note for leaf in large)


def test_places_beyond_the_first_are_counted() -> None:
    def step(x: jax.Array) -> tuple[jax.Array, ...]:
        a = jnp.sort(x, axis=1)
        b = jnp.cumsum(a, axis=1)
        c = jnp.sort(b + 1, axis=1)
        d = jnp.cumsum(c * 2, axis=1)
        e = jnp.sort(d - 1, axis=1)
        f = jnp.cumsum(e / 2, axis=1)
        return (jnp.sort(f * 3, axis=1), jnp.cumsum(f - 3, axis=1))

    found = plan(step, jnp.ones((777, 777)), on="cpu:8")
    assert len(_notes(found)) == 5
    (rest,) = [note for note in found.notes if note.startswith("... and ")]
    assert "more places make values that are whole" in rest
