"""Real train steps hold no primitive that the rules don't know."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

from autoshard.models import zoo
from autoshard.rules.registry import rule_for
from autoshard.rules.unruled import UNRULED
from autoshard.trace.walk import view
from tests.rules.equations import equations, keys

ZOO = ["mlp-tiny", "gpt-tiny", "gpt-nnx-tiny", "gpt-linen-tiny", "convnet-tiny"]
OPTIMIZERS = {
    "adamw": optax.adamw,
    "adafactor": optax.adafactor,
    "sgd": optax.sgd,
    "lion": optax.lion,
    "muon": optax.contrib.muon,
}


class Mixed(nn.Module):
    """A bit of everything a vision or sequence model has."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.ConvTranspose(8, (3, 3), (2, 2))(x)
        x = nn.GroupNorm(4)(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1, 8)
        x = nn.MultiHeadDotProductAttention(2)(x, x)
        x = nn.Dropout(0.1, deterministic=False)(x)
        x = nn.RNN(nn.LSTMCell(8))(x)
        return nn.Dense(10)(x.mean(1))


def unknown(fn, *args):
    """Primitives without a rule; a rule that misunderstands an equation raises."""
    found = set()
    for eqn in equations(jax.make_jaxpr(fn)(*args).jaxpr):
        if not rule_for(view(eqn)).known:
            found.add(eqn.primitive.name)
    return found - set(UNRULED)


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    step, arguments = zoo.zoo(name, 8)
    assert unknown(step, *arguments) == set()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vision_and_sequence_layers(name):
    net, optimizer = Mixed(), OPTIMIZERS[name](1e-3)
    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(net.init, rngs, images)

    def step(variables, state, images, labels, key):
        def loss(params):
            now = {**variables, "params": params}
            out, _ = net.apply(now, images, mutable=["batch_stats"], rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

        params = variables["params"]
        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, variables["params"])
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    assert unknown(step, variables, state, images, labels, keys()) == set()
