"""Every model learns a fixed batch; layouts and libraries agree given the same weights."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from autoshard.models import convnet, gpt, gpt_linen, gpt_nnx, mlp

TINY = replace(gpt.CONFIGS["gpt-tiny"], seq=16, embed=32, learning_rate=1e-2)
EXACT = replace(TINY, compute_dtype="float32")

FUNCTIONAL = {
    "mlp": (mlp, mlp.CONFIGS["mlp-tiny"]),
    "convnet": (convnet, replace(convnet.CONFIGS["convnet-tiny"], image=8)),
    "gpt": (gpt, TINY),
    "gpt f32, unrolled, tied": (gpt, replace(EXACT, scan=False, tied=True)),
    "gpt remat": (gpt, replace(TINY, remat=True)),
    "gpt dropout": (gpt, replace(TINY, dropout=0.1)),
    "gpt_linen": (gpt_linen, TINY),
    "gpt_linen unrolled, remat": (gpt_linen, replace(TINY, scan=False, remat=True)),
}


def unstack(tree, n):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(n)]


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_loss_falls_over_five_steps(name):
    module, config = FUNCTIONAL[name]
    train_step = jax.jit(module.make_train_step(config))
    state, batch = module.example_inputs(config, 4)
    losses = []
    for _ in range(5):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.05
    assert int(state["step"]) == 5


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("remat", [True, False])
def test_nnx_loss_falls_over_five_steps(scan, remat):
    model, optimizer, batch = gpt_nnx.example_inputs(replace(TINY, scan=scan, remat=remat), 4)
    train_step = nnx.jit(gpt_nnx.train_step)
    losses = [float(train_step(model, optimizer, batch)["loss"]) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.05


def assert_close(actual, expected):
    """Trees equal but for the order of float32 sums."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), actual, expected
    )


def test_gpt_scanned_equals_unrolled_and_recomputed():
    state, batch = gpt.example_inputs(EXACT, 2)
    stacked = state["params"]
    unstacked = dict(stacked, layers=unstack(stacked["layers"], EXACT.layers))
    grad = jax.jit(jax.value_and_grad(gpt.loss), static_argnums=2)
    value, grads = grad(stacked, batch, EXACT)
    assert_close(grad(stacked, batch, replace(EXACT, remat=True)), (value, grads))
    expected = value, dict(grads, layers=unstack(grads["layers"], EXACT.layers))
    assert_close(grad(unstacked, batch, replace(EXACT, scan=False)), expected)


def test_linen_scanned_equals_unrolled():
    state, batch = gpt_linen.example_inputs(EXACT, 2)
    params = dict(state["params"])
    layers = unstack(params.pop("layers"), EXACT.layers)
    flat = params | {f"layer_{i}": layer for i, layer in enumerate(layers)}
    scanned = gpt_linen.loss(state["params"], batch, EXACT)
    unrolled = gpt_linen.loss(flat, batch, replace(EXACT, scan=False))
    assert_close(unrolled, scanned)


def test_nnx_scanned_equals_unrolled():
    scanned, _, batch = gpt_nnx.example_inputs(EXACT, 2)
    unrolled, _, _ = gpt_nnx.example_inputs(replace(EXACT, scan=False), 2)
    state = nnx.to_pure_dict(nnx.state(scanned, nnx.Param))
    state["layers"] = dict(enumerate(unstack(state["layers"], EXACT.layers)))
    target = nnx.state(unrolled, nnx.Param)
    nnx.replace_by_pure_dict(target, state)
    nnx.update(unrolled, target)
    assert_close(gpt_nnx.loss(unrolled, batch), gpt_nnx.loss(scanned, batch))


def test_gpt_is_causal():
    state, batch = gpt.example_inputs(EXACT, 1)
    tokens = batch["inputs"]
    changed = tokens.at[0, 10].set((tokens[0, 10] + 1) % EXACT.vocab)
    before = gpt.apply(state["params"], tokens, EXACT)
    after = gpt.apply(state["params"], changed, EXACT)
    np.testing.assert_allclose(before[0, :10], after[0, :10], atol=1e-6)
    assert jnp.max(jnp.abs(before[0, 10:] - after[0, 10:])) > 1e-3


def test_dropout_depends_on_the_step_and_is_off_without_a_key():
    config = replace(EXACT, dropout=0.5)
    state, batch = gpt.example_inputs(config, 2)
    train_step = jax.jit(gpt.make_train_step(config))
    first = train_step(state, batch)[1]["loss"]
    assert first == train_step(state, batch)[1]["loss"]
    assert first != train_step(state | {"step": state["step"] + 1}, batch)[1]["loss"]
    assert gpt.loss(state["params"], batch, config) == gpt.loss(state["params"], batch, EXACT)


def test_compute_dtype_reaches_the_logits_and_not_the_state():
    for dtype in ("bfloat16", "float32"):
        config = replace(TINY, compute_dtype=dtype)
        state, batch = gpt.abstract_inputs(config, 2)
        logits = jax.eval_shape(
            lambda p, t, c=config: gpt.apply(p, t, c), state["params"], batch["inputs"]
        )
        assert logits.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {jnp.dtype("float32")}


@pytest.mark.parametrize("module", [gpt_nnx, gpt_linen])
def test_flax_models_refuse_what_they_lack(module):
    with pytest.raises(ValueError, match="neither dropout nor tied"):
        module.abstract_inputs(replace(TINY, tied=True), 1)


def test_bad_sizes_are_refused_with_numbers():
    with pytest.raises(ValueError, match="embed 65 is not divisible by heads 4"):
        replace(TINY, embed=65)
    with pytest.raises(ValueError, match=r"\(8, 18\) are not all divisible by groups 4"):
        replace(convnet.CONFIGS["convnet-tiny"], widths=(8, 18))
