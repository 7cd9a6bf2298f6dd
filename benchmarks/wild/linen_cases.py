"""Flax Linen's own layers: attention, recurrences, batch norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


@case("flax")
def linen_attention() -> Built:
    """`nn.SelfAttention` with dropout and `TrainState`, as in Flax's examples."""
    import optax
    from flax import linen as nn
    from flax.training.train_state import TrainState

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any, train: bool) -> Any:
            h = nn.Embed(48, 32)(tokens)
            for _ in range(2):
                mask = nn.make_causal_mask(tokens)
                attention = nn.SelfAttention(4, dropout_rate=0.1, deterministic=not train)
                h = h + attention(nn.LayerNorm()(h), mask=mask)
                h = h + nn.Dense(32)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(h))))
                h = nn.Dropout(0.1, deterministic=not train)(h)
            return nn.Dense(48)(h)

    net = Net()
    tokens = jax.random.randint(jax.random.key(0), (8, 17), 0, 48)
    params = net.init(jax.random.key(1), tokens[:, :-1], False)["params"]
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 10))
    state = TrainState.create(apply_fn=net.apply, params=params, tx=optimizer)

    def step(state: Any, batch: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(7), state.step)

        def loss_fn(p: Any) -> Any:
            logits = state.apply_fn({"params": p}, batch[:, :-1], True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), {"loss": loss, "grads": grads}

    return Built(step, state, tokens, whole_state=False, zeros=("['key']['bias']",))


@case("flax")
def linen_lstm() -> Built:
    """`nn.RNN(nn.OptimizedLSTMCell)` and a bidirectional GRU, with sequence lengths."""
    import optax
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any, lengths: Any) -> Any:
            h = nn.Embed(32, 24)(tokens)
            h = nn.RNN(nn.OptimizedLSTMCell(32))(h, seq_lengths=lengths)
            both = nn.Bidirectional(nn.RNN(nn.GRUCell(16)), nn.RNN(nn.GRUCell(16)))
            return nn.Dense(32)(both(h, seq_lengths=lengths))

    net = Net()
    tokens = jax.random.randint(jax.random.key(0), (8, 12), 0, 32)
    lengths = jnp.array([12, 3, 5, 7, 12, 1, 9, 11])
    params = net.init(jax.random.key(1), tokens, lengths)
    optimizer = optax.sgd(0.1)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        tokens, lengths = batch

        def loss_fn(p: Any) -> Any:
            logits = net.apply(p, tokens, lengths)[:, :-1]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            mask = jnp.arange(loss.shape[1]) < lengths[:, None] - 1
            return jnp.sum(loss * mask) / jnp.sum(mask)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Built(step, (params, optimizer.init(params)), (tokens, lengths))


@case("flax")
def linen_batchnorm() -> Built:
    """Convolutions, `nn.BatchNorm` statistics, average pooling, grouped convolution.

    Not depthwise, and without biases: batch norm would make true gradients vanish.
    """
    import optax
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Conv(16, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
            x = nn.Conv(16, (3, 3), feature_group_count=4, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(10)(x.reshape(x.shape[0], -1))

    net = Net()
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    y = jax.random.randint(jax.random.key(1), (16,), 0, 10)
    variables = net.init(jax.random.key(2), x)
    optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)

    def step(state: Any, batch: Any) -> Any:
        params, stats, opt_state = state

        def loss_fn(p: Any) -> Any:
            values = {"params": p, "batch_stats": stats}
            logits, new = net.apply(values, batch[0], mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
            return loss, new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), {"loss": loss}

    params = variables["params"]
    state = (params, variables["batch_stats"], optimizer.init(params))
    return Built(step, state, (x, y))


@case("flax")
def linen_scanned() -> Built:
    """`nn.scan` over `nn.remat` layers, parameters stacked."""
    import optax
    from flax import linen as nn

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, h: Any, _: Any) -> Any:
            h = h + nn.MultiHeadDotProductAttention(4)(nn.RMSNorm()(h))
            return h + nn.Dense(32)(nn.silu(nn.Dense(64)(nn.RMSNorm()(h)))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any) -> Any:
            embed = nn.Embed(48, 32)
            layers = nn.scan(
                nn.remat(Layer, prevent_cse=False),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=4,
            )
            h, _ = layers()(embed(tokens), None)
            return embed.attend(h)

    net = Net()
    tokens = jax.random.randint(jax.random.key(0), (8, 17), 0, 48)
    params = net.init(jax.random.key(1), tokens[:, :-1])
    optimizer = optax.sgd(0.1)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss_fn(p: Any) -> Any:
            logits = net.apply(p, batch[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Built(step, (params, optimizer.init(params)), tokens, zeros=("['key']['bias']",))
