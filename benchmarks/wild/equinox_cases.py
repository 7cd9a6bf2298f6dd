"""Equinox: modules are pytrees that hold functions beside arrays; filtered transformations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def built(
    model: Any, loss_fn: Any, optimizer: Any, batch: Any, *, whole_state: bool = True
) -> Built:
    """Arrays are the state; the rest of the module is closed over, as Equinox's own guides do."""
    import equinox as eqx

    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def step(state: Any, batch: Any) -> Any:
        arrays, opt_state = state
        model = eqx.combine(arrays, static)
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, batch)
        updates, opt_state = optimizer.update(grads, opt_state, arrays)
        model = eqx.apply_updates(model, updates)
        arrays = eqx.filter(model, eqx.is_inexact_array)
        return (arrays, opt_state), {"loss": loss, "grads": grads}

    return Built(step, (arrays, optimizer.init(arrays)), batch, whole_state)


@case("equinox")
def equinox_mlp() -> Built:
    """`eqx.nn.MLP` under `vmap`."""
    import equinox as eqx
    import optax

    model = eqx.nn.MLP(16, 8, width_size=64, depth=3, key=jax.random.key(0))

    def loss_fn(model: Any, batch: Any) -> Any:
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    x = jax.random.normal(jax.random.key(1), (32, 16))
    return built(model, loss_fn, optax.sgd(0.1, momentum=0.9), (x, jnp.sin(x[:, :8])))


@case("equinox")
def equinox_gru() -> Built:
    """`eqx.nn.GRUCell` in `lax.scan`, from Equinox's RNN example."""
    import equinox as eqx
    import optax

    class Net(eqx.Module):
        cell: Any
        linear: Any

        def __init__(self, key: Any) -> None:
            a, b = jax.random.split(key)
            self.cell = eqx.nn.GRUCell(4, 32, key=a)
            self.linear = eqx.nn.Linear(32, 1, key=b)

        def __call__(self, xs: Any) -> Any:
            def f(carry: Any, x: Any) -> Any:
                return self.cell(x, carry), None

            out, _ = jax.lax.scan(f, jnp.zeros(32), xs)
            return jax.nn.sigmoid(self.linear(out))

    def loss_fn(model: Any, batch: Any) -> Any:
        p, y = jax.vmap(model)(batch[0])[:, 0], batch[1]
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    x = jax.random.normal(jax.random.key(1), (16, 10, 4))
    y = (x.sum((1, 2)) > 0).astype(jnp.float32)
    return built(Net(jax.random.key(0)), loss_fn, optax.sgd(0.1), (x, y))


@case("equinox")
def equinox_transformer() -> Built:
    """`eqx.nn.MultiheadAttention`, `LayerNorm`, `Embedding`, after Equinox's BERT example."""
    import equinox as eqx
    import optax

    vocab, length, width = 40, 16, 32

    class Block(eqx.Module):
        attention: Any
        norm1: Any
        norm2: Any
        up: Any
        down: Any

        def __init__(self, key: Any) -> None:
            a, b, c = jax.random.split(key, 3)
            self.attention = eqx.nn.MultiheadAttention(4, width, key=a)
            self.norm1, self.norm2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
            self.up = eqx.nn.Linear(width, 4 * width, key=b)
            self.down = eqx.nn.Linear(4 * width, width, key=c)

        def __call__(self, h: Any, mask: Any) -> Any:
            n = jax.vmap(self.norm1)(h)
            h = h + self.attention(n, n, n, mask)
            n = jax.vmap(self.norm2)(h)
            return h + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(n)))

    class Net(eqx.Module):
        embed: Any
        blocks: Any
        head: Any

        def __init__(self, key: Any) -> None:
            a, b, c = jax.random.split(key, 3)
            self.embed = eqx.nn.Embedding(vocab, width, key=a)
            self.blocks = [Block(k) for k in jax.random.split(b, 2)]
            self.head = eqx.nn.Linear(width, vocab, use_bias=False, key=c)

        def __call__(self, tokens: Any) -> Any:
            mask = jnp.tril(jnp.ones((length, length), bool))
            h = jax.vmap(self.embed)(tokens)
            for block in self.blocks:
                h = block(h, mask)
            return jax.vmap(self.head)(h)

    def loss_fn(model: Any, batch: Any) -> Any:
        logits = jax.vmap(model)(batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    tokens = jax.random.randint(jax.random.key(1), (8, length + 1), 0, vocab)
    model = Net(jax.random.key(0))
    return built(model, loss_fn, optax.adamw(1e-3), tokens, whole_state=False)


@case("equinox")
def equinox_unet() -> Built:
    """Convolutions, `GroupNorm`, pooling and transposed convolution: a denoising U-Net."""
    import equinox as eqx
    import optax

    class Net(eqx.Module):
        first: Any
        norm: Any
        down: Any
        middle: Any
        up: Any
        last: Any
        pool: Any

        def __init__(self, key: Any) -> None:
            k = jax.random.split(key, 5)
            self.first = eqx.nn.Conv2d(3, 16, 3, padding=1, key=k[0])
            self.norm = eqx.nn.GroupNorm(4, 16)
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.down = eqx.nn.Conv2d(16, 32, 3, stride=2, padding=1, key=k[1])
            self.middle = eqx.nn.Conv2d(32, 32, 3, padding=1, key=k[2])
            self.up = eqx.nn.ConvTranspose2d(32, 16, 4, stride=4, key=k[3])
            self.last = eqx.nn.Conv2d(32, 3, 3, padding=1, key=k[4])

        def __call__(self, x: Any) -> Any:
            a = jax.nn.silu(self.norm(self.first(x)))
            b = jax.nn.silu(self.down(self.pool(a)))
            b = jax.nn.silu(self.middle(b))
            return self.last(jnp.concatenate([a, self.up(b)]))

    def loss_fn(model: Any, batch: Any) -> Any:
        x, noise, t = batch
        noisy = jnp.cos(t)[:, None, None, None] * x + jnp.sin(t)[:, None, None, None] * noise
        return jnp.mean((jax.vmap(model)(noisy) - noise) ** 2)

    a, b, c = jax.random.split(jax.random.key(1), 3)
    x, noise = jax.random.normal(a, (8, 3, 16, 16)), jax.random.normal(b, (8, 3, 16, 16))
    batch = (x, noise, jax.random.uniform(c, (8,)))
    return built(Net(jax.random.key(0)), loss_fn, optax.sgd(0.05), batch)
