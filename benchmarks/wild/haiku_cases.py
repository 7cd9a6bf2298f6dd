"""Haiku: transformed functions, parameters as nested dicts, batch-norm state, recurrences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _step(loss_fn: Any, optimizer: Any) -> Any:
    """`loss_fn(params, batch)`, trained."""
    import optax

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss, "grads": grads}

    return step


@case("dm-haiku")
def haiku_mlp() -> Built:
    """`hk.nets.MLP` with dropout, keys old style."""
    import haiku as hk
    import optax

    def forward(x: Any) -> Any:
        return hk.nets.MLP([64, 32, 16])(x, dropout_rate=0.1, rng=hk.next_rng_key())

    net = hk.transform(forward)
    optimizer = optax.sgd(0.1, momentum=0.9)
    x = jax.random.normal(jax.random.PRNGKey(0), (32, 24))
    y = jax.random.randint(jax.random.PRNGKey(1), (32,), 0, 16)
    params = net.init(jax.random.PRNGKey(2), x)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state, key = state
        key, now = jax.random.split(key)

        def loss_fn(p: Any) -> Any:
            logits = net.apply(p, now, batch["x"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, key), {"loss": loss}

    state = (params, optimizer.init(params), jax.random.PRNGKey(3))
    return Built(step, state, {"x": x, "y": y})


@case("dm-haiku")
def haiku_resnet() -> Built:
    """`hk.nets.ResNet`, thin: strided convolutions, batch norm with moving averages, pooling."""
    import haiku as hk
    import optax

    def forward(x: Any, is_training: bool) -> Any:
        net = hk.nets.ResNet(
            (1, 1, 1, 1),
            8,
            bottleneck=False,
            channels_per_group=(16, 16, 32, 32),
            use_projection=(True, True, True, True),
        )
        return net(x, is_training)

    net = hk.transform_with_state(forward)
    x = jax.random.normal(jax.random.PRNGKey(0), (8, 32, 32, 3))
    params, stats = net.init(jax.random.PRNGKey(2), x, True)
    y = jax.nn.one_hot(jax.random.randint(jax.random.PRNGKey(1), (8,), 0, 8), 8)
    optimizer = optax.sgd(0.01)

    def step(state: Any, batch: Any) -> Any:
        params, stats, opt_state = state

        def loss_fn(p: Any) -> Any:
            logits, new = net.apply(p, stats, None, batch["x"], True)
            return optax.softmax_cross_entropy(logits, batch["y"]).mean(), new

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), {"loss": loss}

    return Built(step, (params, stats, optimizer.init(params)), {"x": x, "y": y})


@case("dm-haiku")
def haiku_transformer() -> Built:
    """`hk.MultiHeadAttention` as in Haiku's own transformer example, AdamW with clipping."""
    import haiku as hk
    import optax

    vocab, length, width, heads = 48, 16, 32, 4

    def forward(tokens: Any) -> Any:
        init = hk.initializers.VarianceScaling(0.5)
        h = hk.Embed(vocab, width)(tokens)
        h = h + hk.get_parameter("positions", (length, width), init=init)
        mask = jnp.tril(jnp.ones((1, 1, length, length)))
        for _ in range(2):
            attention = hk.MultiHeadAttention(heads, width // heads, w_init=init)
            n = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(h)
            h = h + attention(n, n, n, mask=mask)
            mlp = hk.Sequential([hk.Linear(4 * width), jax.nn.gelu, hk.Linear(width)])
            h = h + mlp(hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(h))
        return hk.Linear(vocab)(hk.LayerNorm(-1, True, True)(h))

    net = hk.without_apply_rng(hk.transform(forward))
    tokens = jax.random.randint(jax.random.PRNGKey(0), (8, length + 1), 0, vocab)
    params = net.init(jax.random.PRNGKey(1), tokens[:, :-1])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))

    def loss_fn(p: Any, batch: Any) -> Any:
        logits = net.apply(p, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    state = (params, optimizer.init(params))
    step = _step(loss_fn, optimizer)
    return Built(step, state, tokens, whole_state=False, zeros=("/key']['b']",))


@case("dm-haiku")
def haiku_vae() -> Built:
    """Haiku's VAE example: sampled latents, Bernoulli likelihood."""
    import haiku as hk
    import optax

    def forward(x: Any) -> Any:
        h = jax.nn.relu(hk.Linear(64)(x))
        mean, log_std = hk.Linear(8)(h), hk.Linear(8)(h)
        z = mean + jnp.exp(log_std) * jax.random.normal(hk.next_rng_key(), mean.shape)
        logits = hk.Linear(x.shape[-1])(jax.nn.relu(hk.Linear(64)(z)))
        return logits, mean, log_std

    net = hk.transform(forward)
    x = jax.random.bernoulli(jax.random.PRNGKey(0), 0.3, (16, 48)).astype(jnp.float32)
    params = net.init(jax.random.PRNGKey(1), x)
    optimizer = optax.sgd(1e-2)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state, key = state
        key, now = jax.random.split(key)

        def loss_fn(p: Any) -> Any:
            logits, mean, log_std = net.apply(p, now, batch)
            likelihood = -optax.sigmoid_binary_cross_entropy(logits, batch).sum(-1)
            kl = 0.5 * (jnp.exp(2 * log_std) + mean**2 - 1 - 2 * log_std).sum(-1)
            return -(likelihood - kl).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, key), {"loss": loss}

    return Built(step, (params, optimizer.init(params), jax.random.key(3)), x)


@case("dm-haiku")
def haiku_lstm() -> Built:
    """An LSTM language model: `hk.dynamic_unroll` over `hk.DeepRNN` of `hk.LSTM`."""
    import haiku as hk
    import optax

    vocab, length, width = 32, 12, 32

    def forward(tokens: Any) -> Any:
        core = hk.DeepRNN([hk.Embed(vocab, width), hk.LSTM(width), jax.nn.relu, hk.Linear(vocab)])
        start = core.initial_state(tokens.shape[0])
        out, _ = hk.dynamic_unroll(core, tokens, start, time_major=False)
        return out

    net = hk.without_apply_rng(hk.transform(forward))
    tokens = jax.random.randint(jax.random.PRNGKey(0), (8, length + 1), 0, vocab)
    params = net.init(jax.random.PRNGKey(1), tokens[:, :-1])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))

    def loss_fn(p: Any, batch: Any) -> Any:
        logits = net.apply(p, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    return Built(_step(loss_fn, optimizer), (params, optimizer.init(params)), tokens)
