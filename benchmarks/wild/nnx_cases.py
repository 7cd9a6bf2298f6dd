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
