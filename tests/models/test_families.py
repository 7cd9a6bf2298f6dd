"""What each family of models promises, on sizes that run in a moment."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.models import gnn, gpt, gpt_serve, llama, moe, parts, ssm, t5, unet, vit, zoo

ZOO = zoo.entries()
FAST = {"learning_rate": 1e-2}
NAMES = "llama moe moe-ragged t5 ssm vit wrn unet dlrm gnn".split()


def tiny(name, **changes):
    family, _, variant = name.partition("-")
    entry = ZOO["-".join(filter(None, (family, "tiny", variant)))]
    return entry.module, replace(entry.config, **changes)


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_over_five_steps(name):
    module, config = tiny(name, **FAST)
    train_step = jax.jit(module.make_train_step(config))
    state, batch = module.example_inputs(config, 4)
    losses = []
    for _ in range(5):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.05
    assert int(state["step"]) == 5


def close(actual, expected, **tolerances):
    tolerances = {"rtol": 2e-4, "atol": 1e-5} | tolerances
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), actual, expected)


@pytest.mark.parametrize("name", ["llama", "moe", "vit", "ssm", "gnn"])
def test_scanned_equals_unrolled_and_recomputed(name):
    module, config = tiny(name, compute_dtype="float32")
    state, batch = module.example_inputs(config, 2)
    params = state["params"]
    grad = jax.jit(jax.value_and_grad(module.loss), static_argnums=2)
    value, grads = grad(params, batch, config)
    close(grad(params, batch, replace(config, remat=True)), (value, grads))

    def unstack(tree):
        return tree | {
            "layers": [jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(2)]
        }

    flat = grad(unstack(params), batch, replace(config, scan=False))
    close(flat, (value, unstack(grads)))


def test_t5_scanned_equals_unrolled():
    module, config = tiny("t5", compute_dtype="float32")
    state, batch = module.example_inputs(config, 2)
    params = dict(state["params"])
    for side in ("encoder", "decoder"):
        layers = params[side]["layers"]
        flat = [jax.tree.map(lambda x, i=i: x[i], layers) for i in range(config.layers)]
        params[side] = params[side] | {"layers": flat}
    unrolled = t5.loss(params, batch, replace(config, scan=False))
    close(unrolled, t5.loss(state["params"], batch, config))


def test_shared_key_heads_equal_repeated_ones():
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, 5, 6, 4))
    key, value = (jax.random.normal(k, (2, 5, 3, 4)) for k in keys[1:])
    repeated = parts.attend(query, jnp.repeat(key, 2, axis=2), jnp.repeat(value, 2, axis=2))
    close(parts.attend(query, key, value), repeated)


def test_rotation_depends_on_distance_only():
    x = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
    turned = llama.rotate(jnp.broadcast_to(x, (1, 6, 1, 8)), 1e4)[0, :, 0]
    products = turned @ turned.T
    close(products[0, 2], products[3, 5])
    close(products[1, 1], jnp.sum(x * x))
    assert abs(products[0, 2] - products[0, 0]) > 1e-2


@pytest.mark.parametrize("module", [llama, ssm])
def test_no_position_sees_later_ones(module):
    config = replace(tiny(module.__name__.rpartition(".")[2])[1], compute_dtype="float32")
    state, batch = module.example_inputs(config, 1)
    tokens = batch["inputs"]
    changed = tokens.at[0, 10].set((tokens[0, 10] + 1) % config.vocab)
    before = module.apply(state["params"], tokens, config)
    after = module.apply(state["params"], changed, config)
    np.testing.assert_allclose(before[0, :10], after[0, :10], atol=1e-5)
    assert jnp.max(jnp.abs(before[0, 10:] - after[0, 10:])) > 1e-3


def test_dense_dispatch_with_room_for_all_equals_ragged():
    _, config = tiny("moe", compute_dtype="float32", capacity=4.0)
    state, batch = moe.example_inputs(config, 2)
    grad = jax.jit(jax.value_and_grad(moe.loss), static_argnums=2)
    ragged = grad(state["params"], batch, replace(config, dispatch="ragged"))
    close(grad(state["params"], batch, config), ragged)


def test_dense_dispatch_drops_what_exceeds_the_capacity():
    _, config = tiny("moe", compute_dtype="float32", chosen=1)
    params = jax.tree.map(lambda p: p[0], moe.init(jax.random.key(0), config)["params"]["layers"])
    x = jax.random.normal(jax.random.key(1), (1, config.seq, config.embed))
    gates, everyone = jnp.ones((1, config.seq, 1)), jnp.zeros((1, config.seq, 1), jnp.int32)
    out = moe.dense_experts(params["experts"], x, gates, everyone, config)
    used = jnp.any(out != 0, axis=-1)[0]
    assert used[: config.slots].all()
    assert not used[config.slots :].any()


def test_recurrence_equals_a_loop():
    keys = jax.random.split(jax.random.key(0))
    decay, added = (jax.random.uniform(k, (2, 7, 3)) for k in keys)
    state, expected = jnp.zeros((2, 3)), []
    for t in range(7):
        state = decay[:, t] * state + added[:, t]
        expected.append(state)
    close(ssm.recur(decay, added), jnp.stack(expected, axis=1))


def test_t5_distances_are_told_apart_by_side_in_the_encoder_only():
    _, config = tiny("t5")
    both, back = t5.bucket(64, True, config), t5.bucket(64, False, config)
    assert both[5, 3] != both[3, 5]
    assert (jnp.triu(back) == 0).all()
    assert back.max() < config.buckets
    assert (jnp.diff(back[-1]) <= 0).all()


def test_patches_are_squares_of_the_image():
    _, config = tiny("vit")
    images = jnp.arange(16 * 16 * 3, dtype=jnp.float32).reshape(1, 16, 16, 3)
    cut = vit.patches(images, config)
    np.testing.assert_array_equal(cut[0, 5], images[0, 4:8, 4:8].reshape(-1))


def test_batch_statistics_move_towards_the_batch():
    module, config = tiny("wrn", compute_dtype="float32")
    state, batch = module.example_inputs(config, 4)
    train_step = module.make_train_step(config)
    new = jax.jit(lambda *args: {"stats": train_step(*args)[0]["stats"]})(state, batch)
    _, found = module.apply(state["params"], batch["images"], config)
    expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state["stats"], found)
    close(new["stats"], expected)


def test_unet_draws_other_noise_every_step():
    module, config = tiny("unet")
    state, batch = module.example_inputs(config, 2)
    train_step = module.make_train_step(config)
    loss = jax.jit(lambda *args: train_step(*args)[1]["loss"])  # the gradient is left out
    first = loss(state, batch)
    assert first == loss(state, batch)
    assert first != loss(state | {"step": state["step"] + 1}, batch)
    assert [b.kind for b in unet.plan(config)].count("down") == 1


def test_gnn_parts_of_a_batch_are_separate():
    module, config = tiny("gnn", compute_dtype="float32")
    state, batch = module.example_inputs(config, 2)
    changed = batch | {"nodes": batch["nodes"].at[0].add(1.0)}
    before, after = (gnn.apply(state["params"], b, config) for b in (batch, changed))
    np.testing.assert_allclose(before[config.nodes :], after[config.nodes :], atol=1e-6)
    assert jnp.max(jnp.abs(before[: config.nodes] - after[: config.nodes])) > 1e-3


def test_decode_repeats_prefill_token_by_token():
    model = replace(gpt.CONFIGS["gpt-tiny"], seq=6, compute_dtype="float32")
    config = gpt_serve.Config(model, "prefill")
    params, batch = gpt_serve.example_inputs(config, 2)
    cache, out = gpt_serve.prefill(params, batch, config)
    grown = gpt_serve.empty_cache(config, 2)
    step = jax.jit(gpt_serve.make_step(replace(config, mode="decode")))
    for t in range(model.seq):
        grown, last = step(params, grown, {"tokens": batch["tokens"][:, t]})
    close((grown, last), (cache, out))
    close(out["logits"], gpt.apply(params, batch["tokens"], model)[:, -1])


def test_bad_sizes_are_refused_with_numbers():
    with pytest.raises(ValueError, match="heads 8 is not divisible by kv_heads 3"):
        tiny("llama", kv_heads=3)
    with pytest.raises(ValueError, match="dispatch is 'sparse'"):
        tiny("moe", dispatch="sparse")
    with pytest.raises(ValueError, match="image 17 is not divisible by patch 4"):
        tiny("vit", image=17)
    with pytest.raises(ValueError, match="does not end in embed 8"):
        tiny("dlrm", embed=8)
    with pytest.raises(ValueError, match="mode is 'train'"):
        gpt_serve.Config(gpt.CONFIGS["gpt-tiny"], "train")
