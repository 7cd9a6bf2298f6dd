"""Llama in plain JAX: grouped-query attention, SwiGLU, rotary positions, RMSNorm.

Sizes of the named configurations are those of Grattafiori et al. 2024, "The Llama 3 Herd of
Models", table 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autoshard.models import parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        vocab, seq, layers, embed: tokens, positions, layers, width of the residual stream.
        heads, kv_heads: heads of the queries, and of keys and values; the latter divides.
        hidden: width inside the MLP.
        theta: base of the rotary frequencies.
        scan: keep the layers stacked and loop over them, instead of a list of layers.
        remat: recompute a layer's activations in the backward pass.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    vocab: int = 128256
    seq: int = 8192
    layers: int = 32
    embed: int = 4096
    heads: int = 32
    kv_heads: int = 8
    hidden: int = 14336
    theta: float = 500000.0
    scan: bool = True
    remat: bool = True
    compute_dtype: str = "bfloat16"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.embed % self.heads:
            raise ValueError(f"embed {self.embed} is not divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads


CONFIGS = {
    "llama-tiny": Config(
        vocab=256, seq=32, layers=2, embed=64, heads=8, kv_heads=4, hidden=128, remat=False
    ),
    "llama-8b": Config(),
    "llama-70b": Config(layers=80, embed=8192, heads=64, hidden=28672),
    "llama-405b": Config(layers=126, embed=16384, heads=128, hidden=53248),
}


def init_attention(key: jax.Array, config: Config) -> Params:
    """The attention weights of one layer, float32."""
    e, h, kv, d = config.embed, config.heads, config.kv_heads, config.head_dim
    keys = jax.random.split(key, 4)
    return {
        "query": parts.weight(keys[0], (e, h, d), e),
        "key": parts.weight(keys[1], (e, kv, d), e),
        "value": parts.weight(keys[2], (e, kv, d), e),
        "out": parts.weight(keys[3], (h, d, e), e * 2 * config.layers),
    }


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    e, f = config.embed, config.hidden
    keys = jax.random.split(key, 4)
    return {
        "norm1": jnp.ones(e),
        "attention": init_attention(keys[0], config),
        "norm2": jnp.ones(e),
        "mlp": {
            "gate": parts.weight(keys[1], (e, f), e),
            "up": parts.weight(keys[2], (e, f), e),
            "down": parts.weight(keys[3], (f, e), f * 2 * config.layers),
        },
    }


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    embed_key, layers_key, head_key = jax.random.split(key, 3)
    params = {
        "embed": jax.random.normal(embed_key, (config.vocab, config.embed)) * 0.02,
        "layers": parts.layer_params(
            lambda k: init_layer(k, config), layers_key, config.layers, config.scan
        ),
        "final_norm": jnp.ones(config.embed),
        "head": jax.random.normal(head_key, (config.embed, config.vocab)) * 0.02,
    }
    return training.new_state(params, config)


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """Turn the halves of each head by an angle that grows with position (Su et al. 2021).

    Args:
        x: `[batch, seq, heads, head_dim]`.
        theta: base of the frequencies.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def attention(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """Causal self-attention of `x` `[batch, seq, embed]`."""
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    query = rotate(jnp.einsum("bse,ehd->bshd", x, weight["query"]), config.theta)
    key = rotate(jnp.einsum("bse,ehd->bshd", x, weight["key"]), config.theta)
    value = jnp.einsum("bse,ehd->bshd", x, weight["value"])
    mixed = parts.attend(query, key, value, mask=parts.causal(x.shape[1]))
    return jnp.einsum("bshd,hde->bse", mixed, weight["out"])


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """A gated MLP (Shazeer 2020)."""
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    return (jax.nn.silu(x @ weight["gate"]) * (x @ weight["up"])) @ weight["down"]


def layer(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """One transformer layer on the residual stream `[batch, seq, embed]`."""
    x = x + attention(params["attention"], parts.rms_norm(params["norm1"], x), config)
    return x + mlp(params["mlp"], parts.rms_norm(params["norm2"], x))


def apply(params: Params, tokens: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, seq, vocab]` in the compute dtype, for `tokens` `[batch, seq]`."""
    x = params["embed"].astype(config.compute_dtype)[tokens]
    x = parts.run_layers(
        lambda p, x: layer(p, x, config),
        params["layers"],
        x,
        scan=config.scan,
        remat=config.remat,
    )
    return parts.rms_norm(params["final_norm"], x) @ params["head"].astype(x.dtype)


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per token in nats, float32."""
    return training.cross_entropy(apply(params, batch["inputs"], config), batch["targets"])


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    return training.step_of(loss, config)


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values: `inputs` and `targets`, `[batch, seq]`."""
    state = jax.jit(init, static_argnums=1)(jax.random.key(seed), config)
    return state, training.token_batch(config.vocab, config.seq, batch_size, seed)


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def attention_flops(config: Config) -> int:
    """Forward matmul FLOPs of one layer's attention for one token, the masked half included."""
    projections = (2 * config.heads + 2 * config.kv_heads) * config.head_dim * config.embed
    return 2 * projections + 4 * config.seq * config.embed


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; recomputation is not counted."""
    per_layer = attention_flops(config) + 6 * config.embed * config.hidden
    forward = config.layers * per_layer + 2 * config.embed * config.vocab
    return 3 * batch_size * config.seq * forward
