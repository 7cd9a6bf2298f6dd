"""The decoder-only transformer of `gpt.py` in Flax Linen."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from autoshard.models import gpt
from autoshard.models.gpt import Batch, Config, State, TrainStep

CONFIGS = {
    name.replace("gpt-", "gpt-linen-"): gpt.CONFIGS[name]
    for name in ("gpt-tiny", "gpt-125m", "gpt-1.3b", "gpt-6.7b")
}


class Layer(nn.Module):
    """Attention and MLP; takes and returns a carry, as `nn.scan` wants it."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        c, dtype = self.config, x.dtype
        normal = nn.LayerNorm(dtype=dtype, name="norm1")(x)
        query, key, value = (
            nn.DenseGeneral((c.heads, c.head_dim), use_bias=False, dtype=dtype, name=name)(normal)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
        positions = jnp.arange(x.shape[1])
        causal = positions[:, None] >= positions[None, :]
        scores = jnp.where(causal, scores / math.sqrt(c.head_dim), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        x = x + nn.DenseGeneral(c.embed, axis=(-2, -1), use_bias=False, dtype=dtype, name="out")(
            mixed
        )
        normal = nn.LayerNorm(dtype=dtype, name="norm2")(x)
        hidden = nn.Dense(c.mlp_ratio * c.embed, use_bias=False, dtype=dtype, name="up")(normal)
        hidden = jax.nn.gelu(hidden)
        return x + nn.Dense(c.embed, use_bias=False, dtype=dtype, name="down")(hidden), None


class GPT(nn.Module):
    """The model. Dropout and tied embeddings are left to `gpt.py`."""

    config: Config

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits `[batch, seq, vocab]` for `tokens` `[batch, seq]`, in the compute dtype."""
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if c.dropout > 0 or c.tied:
            raise ValueError(f"gpt_linen has neither dropout nor tied embeddings: {c}")
        x = nn.Embed(c.vocab, c.embed, dtype=dtype, name="embed")(tokens)
        x = x + nn.Embed(c.seq, c.embed, dtype=dtype, name="position")(jnp.arange(tokens.shape[1]))
        layer: Any = nn.remat(Layer, prevent_cse=not c.scan) if c.remat else Layer
        if c.scan:
            stacked = nn.scan(
                layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.layers
            )
            x, _ = stacked(c, name="layers")(x, None)
        else:
            for i in range(c.layers):
                x, _ = layer(c, name=f"layer_{i}")(x, None)
        x = nn.LayerNorm(dtype=dtype, name="final_norm")(x)
        return nn.Dense(c.vocab, use_bias=False, dtype=dtype, name="head")(x)


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    params = GPT(config).init(key, jnp.zeros((1, config.seq), jnp.int32))["params"]
    return {
        "params": params,
        "opt_state": gpt.optimizer(config).init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def loss(params: dict[str, Any], batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per token in nats, float32."""
    logits = jnp.asarray(GPT(config).apply({"params": params}, batch["inputs"]), jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return jnp.mean(losses)


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config)
        tx = gpt.optimizer(config)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return new, {"loss": value}

    return train_step


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values."""
    state = jax.jit(init, static_argnums=1)(jax.random.key(seed), config)
    return state, gpt.example_batch(config, batch_size, seed)


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; see `gpt.flops`."""
    return gpt.flops(config, batch_size)
