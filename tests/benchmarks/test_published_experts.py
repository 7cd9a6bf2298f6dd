"""GShard's experts and Adafactor, as published runs have them: against what they are said to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.published import decoder, experts
from benchmarks.published.optimizers import OPTIMIZERS
from benchmarks.published.predict import Efficiency, Unsupported, case_of, predict
from benchmarks.published.rows import read
from tests.benchmarks.published_record import record

MIXED = {
    "model__kind": "moe (every other layer)",
    "model__experts": 4,
    "model__expert_group_size": 128,
    "framework": "Alpa (JAX/XLA auto-sharding + runtime)",
    "layout__tensor": 1,
    "layout__data": 16,
}


def weights(tokens, embed=8, hidden=16, count=4):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = experts.shapes(count, embed, hidden)
    made = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=False)}
    return made, jax.random.normal(keys[3], (1, tokens, embed))


def test_tokens_with_room_get_their_two_best_experts():
    weight, x = weights(tokens=4)
    some = {name: w[:, :2] if name == "router" else w[:2] for name, w in weight.items()}
    got = experts.mlp(some, x, group=4)[0]  # room for all four tokens in both experts
    odds = jax.nn.softmax(x[0] @ some["router"])
    outputs = [
        jax.nn.relu(x[0] @ up) @ down for up, down in zip(some["up"], some["down"], strict=True)
    ]
    np.testing.assert_allclose(got, odds[:, :1] * outputs[0] + odds[:, 1:] * outputs[1], rtol=1e-4)


def test_no_expert_takes_more_than_its_share():
    odds = jnp.tile(jnp.asarray([0.7, 0.2, 0.1, 0.0]), (1, 16, 1))
    places = experts._places(odds)
    taken = (np.asarray(places) != 0).sum(axis=(0, 1, 3))
    assert list(taken) == [8, 8, 0, 0]  # 2 x 16 / 4 places each


def test_every_other_layer_has_experts():
    config = case_of(read(record(**MIXED))).config
    shapes = decoder.shapes(config)
    assert shapes["expert_layers"]["up"] == (1, 4, 256, 8 * 256)
    assert shapes["layers"]["up"] == (1, 256, 8 * 256)


def test_a_group_is_no_larger_than_a_microbatch():
    row = read(record(**(MIXED | {"model__expert_group_size": 1 << 20})))
    case = case_of(row)
    assert case.config.expert_group == case.recipe.microbatch * case.config.seq


def test_experts_that_all_devices_hold_cost_memory_and_sharded_state_less():
    def peak(**changes):
        row = read(record(**(MIXED | changes)))
        return predict(row, case_of(row), Efficiency()).peak_bytes

    dense = {"model__kind": "dense", "model__d_ff": 8 * 256}
    assert peak(layout__zero=2) < peak()
    assert peak(**dense) < peak()


def test_experts_that_are_not_counted_are_not_guessed():
    with pytest.raises(Unsupported, match="does not say experts"):
        case_of(read(record(**(MIXED | {"model__experts": None}))))


def test_adafactor_keeps_a_row_and_a_column_of_large_matrices():
    moments = OPTIMIZERS["adafactor"].moments
    assert moments((3, 256, 512)) == {"rows": (3, 256), "columns": (3, 512)}
    assert moments((3, 256, 16)) == {"square": (3, 256, 16)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_goes_against_the_gradient(name):
    one = OPTIMIZERS[name]
    weight = jnp.zeros((256, 256))
    grad = jax.random.normal(jax.random.key(1), weight.shape)
    kept = {n: jnp.zeros(s) for n, s in one.moments(weight.shape).items()}
    new, after = one.update(weight, grad, **kept)
    assert jnp.all(new * grad <= 0)
    assert {n: m.shape for n, m in after.items()} == {n: m.shape for n, m in kept.items()}
