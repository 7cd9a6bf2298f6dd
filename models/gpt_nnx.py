"""The decoder-only transformer of `gpt.py` in Flax NNX: model and optimizer are mutated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from autoshard.models import gpt
from autoshard.models.gpt import Batch, Config

TrainStep = Callable[["GPT", nnx.Optimizer, Batch], dict[str, jax.Array]]

CONFIGS = {
    name.replace("gpt-", "gpt-nnx-"): gpt.CONFIGS[name]
    for name in ("gpt-tiny", "gpt-125m", "gpt-1.3b", "gpt-6.7b")
}


class Attention(nnx.Module):
    """Causal self-attention; kernels are `[embed, heads, head_dim]`."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        e, h, d = config.embed, config.heads, config.head_dim
        dtype = jnp.dtype(config.compute_dtype)

        def projection() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(e, (h, d), use_bias=False, dtype=dtype, rngs=rngs)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.out = nnx.LinearGeneral(
            (h, d), e, axis=(-2, -1), use_bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
        positions = jnp.arange(x.shape[1])
        causal = positions[:, None] >= positions[None, :]
        scores = jnp.where(causal, scores / math.sqrt(query.shape[-1]), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, value))


class Layer(nnx.Module):
    """Attention and MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        e, f, dtype = config.embed, config.mlp_ratio * config.embed, jnp.dtype(config.compute_dtype)
        self.norm1 = nnx.LayerNorm(e, dtype=dtype, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = nnx.LayerNorm(e, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(e, f, use_bias=False, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(f, e, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class GPT(nnx.Module):
    """The model. Dropout and tied embeddings are left to `gpt.py`."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        if config.dropout > 0 or config.tied:
            raise ValueError(f"gpt_nnx has neither dropout nor tied embeddings: {config}")
        dtype = jnp.dtype(config.compute_dtype)
        self.config = config
        self.embed = nnx.Embed(config.vocab, config.embed, dtype=dtype, rngs=rngs)
        self.position = nnx.Embed(config.seq, config.embed, dtype=dtype, rngs=rngs)
        self.layers: Any  # a Layer of stacked weights, or a list of Layers
        if config.scan:

            @nnx.split_rngs(splits=config.layers)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def stacked(rngs: nnx.Rngs) -> Layer:
                return Layer(config, rngs=rngs)

            self.layers = stacked(rngs)
        else:
            self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])
        self.final_norm = nnx.LayerNorm(config.embed, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(config.embed, config.vocab, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits `[batch, seq, vocab]` for `tokens` `[batch, seq]`, in the compute dtype."""

        def run(x: jax.Array, layer: Layer) -> jax.Array:
            return layer(x)

        if self.config.remat:
            run = nnx.remat(run)
        x = self.embed(tokens) + self.position(jnp.arange(tokens.shape[1]))
        if self.config.scan:
            x = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)
        else:
            for layer in self.layers:
                x = run(x, layer)
        return self.head(self.final_norm(x))


def init(key: jax.Array, config: Config) -> tuple[GPT, nnx.Optimizer]:
    """The model and its AdamW optimizer."""
    model = GPT(config, rngs=nnx.Rngs(params=key))
    return model, nnx.Optimizer(model, gpt.optimizer(config), wrt=nnx.Param)


def loss(model: GPT, batch: Batch) -> jax.Array:
    """Mean cross-entropy per token in nats, float32."""
    logits = model(batch["inputs"]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return jnp.mean(losses)


def train_step(model: GPT, optimizer: nnx.Optimizer, batch: Batch) -> dict[str, jax.Array]:
    """One step of training on one device; updates the model and the optimizer in place."""
    value, grads = nnx.value_and_grad(loss)(model, batch)
    optimizer.update(model, grads)
    return {"loss": value}


def make_train_step(config: Config) -> TrainStep:
    """`train_step`, which finds the config on the model; here so that all models look alike."""
    del config
    return train_step


def donate_argnums(config: Config) -> tuple[int, ...]:
    """Arguments whose memory the step may take over: model and optimizer."""
    del config
    return (0, 1)


def example_inputs(
    config: Config, batch_size: int, seed: int = 0
) -> tuple[GPT, nnx.Optimizer, Batch]:
    """Model, optimizer and batch with values."""
    model, optimizer = nnx.jit(init, static_argnums=1)(jax.random.key(seed), config)
    return model, optimizer, gpt.example_batch(config, batch_size, seed)


def abstract_inputs(config: Config, batch_size: int) -> tuple[GPT, nnx.Optimizer, Batch]:
    """`example_inputs` with `jax.ShapeDtypeStruct`s in the variables; allocates nothing."""
    model, optimizer = nnx.eval_shape(lambda: init(jax.random.key(0), config))
    return model, optimizer, jax.eval_shape(lambda: gpt.example_batch(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; see `gpt.flops`."""
    return gpt.flops(config, batch_size)
