"""Flax NNX: modules split by hand into state, and its own recurrent and convolutional layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _built(model: Any, optimizer: Any, loss_fn: Any, batch: Any) -> Built:
    """The functional form of NNX: `split`, `merge`, everything mutable in the state."""
    from flax import nnx

    graph, first = nnx.split((model, optimizer))

    def step(state: Any, batch: Any) -> Any:
        model, optimizer = nnx.merge(graph, state)
        loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
        optimizer.update(model, grads)
        return nnx.split((model, optimizer))[1], {"loss": loss}

    return Built(step, first, batch)


@case("flax")
def nnx_lstm() -> Built:
    """`nnx.RNN(nnx.LSTMCell)` over an embedding."""
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embed = nnx.Embed(32, 16, rngs=rngs)
            self.rnn = nnx.RNN(nnx.LSTMCell(16, 32, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(32, 32, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            return self.head(self.rnn(self.embed(tokens)))

    def loss_fn(model: Any, batch: Any) -> Any:
        logits = model(batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    tokens = jax.random.randint(jax.random.key(0), (8, 13), 0, 32)
    return _built(model, optimizer, loss_fn, tokens)


@case("flax")
def nnx_cnn() -> Built:
    """Flax's MNIST example: convolution, batch norm, dropout, pooling; keys in the state."""
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
            self.norm1 = nnx.BatchNorm(16, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
            self.linear1 = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
            self.linear2 = nnx.Linear(64, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.norm1(self.dropout(self.conv1(x))))
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
            return self.linear2(nnx.relu(self.linear1(x.reshape(x.shape[0], -1))))

    def loss_fn(model: Any, batch: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]).mean()

    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.05), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 1))
    return _built(model, optimizer, loss_fn, (x, jnp.arange(16) % 10))


def _decoder(vocab: int, width: int) -> Any:
    """One block of `nnx.MultiHeadAttention` in decoding mode."""
    from flax import nnx

    class Decoder(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embed = nnx.Embed(vocab, width, rngs=rngs)
            self.norm1, self.norm2 = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                num_heads=8, num_kv_heads=4, in_features=width, decode=True, rngs=rngs
            )
            self.up = nnx.Linear(width, 4 * width, rngs=rngs)
            self.down = nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            h = self.embed(tokens)
            h = h + self.attention(self.norm1(h))
            h = h + self.down(nnx.silu(self.up(self.norm2(h))))
            return self.embed.attend(h)

    return Decoder(nnx.Rngs(0))


@case("flax")
def nnx_decode() -> Built:
    """Greedy decoding, one token a step: grouped-query attention writes its cache."""
    from flax import nnx

    model = _decoder(48, 32)
    model.attention.init_cache((8, 16, 32))
    graph, weights, cache = nnx.split(model, nnx.Param, ...)

    def step(state: Any, weights: Any) -> Any:
        cache, tokens = state
        model = nnx.merge(graph, weights, cache)
        logits = model(tokens)
        cache = nnx.split(model, nnx.Param, ...)[2]
        return (cache, logits.argmax(-1)), {"logits": logits}

    tokens = jax.random.randint(jax.random.key(0), (8, 1), 0, 48)
    return Built(step, (cache, tokens), weights)


@case("flax")
def nnx_prefill() -> Built:
    """A prompt fed to the same cache token by token in `lax.scan`, then sampled from."""
    from flax import nnx

    model = _decoder(48, 32)
    model.attention.init_cache((8, 16, 32))
    graph, weights, cache = nnx.split(model, nnx.Param, ...)

    def step(state: Any, batch: Any) -> Any:
        weights, prompt = batch
        _, key = state
        key, now = jax.random.split(key)

        def read(cache: Any, token: Any) -> Any:
            model = nnx.merge(graph, weights, cache)
            logits = model(token[:, None])
            return nnx.split(model, nnx.Param, ...)[2], logits[:, 0]

        filled, logits = jax.lax.scan(read, cache, prompt.T)
        sampled = jax.random.categorical(now, logits[-1])
        return (filled, key), {"logits": logits, "sampled": sampled}

    prompt = jax.random.randint(jax.random.key(0), (8, 12), 0, 48)
    return Built(step, (cache, jax.random.key(1)), (weights, prompt))
