"""A decoder-only transformer in plain JAX (GPT-2's shape, without biases on matmuls).

Sizes of the named configurations are those of Brown et al. 2020, "Language Models are Few-Shot
Learners", table 2.1, with the vocabulary rounded up to a multiple of 128 as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autoshard.models.parts import layer_norm

Params = dict[str, Any]
State = dict[str, Any]
Batch = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        vocab, seq, layers, heads, embed: number of tokens, positions, layers, attention heads, and
            the width of the residual stream.
        mlp_ratio: hidden width of the MLP over `embed`.
        scan: keep the layers stacked and loop over them, instead of a list of layers.
        remat: recompute a layer's activations in the backward pass.
        dropout: rate, on the output of attention and MLP; above 0 the state carries a `key`.
        tied: use the embedding as output projection.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    vocab: int = 50304
    seq: int = 1024
    layers: int = 12
    heads: int = 12
    embed: int = 768
    mlp_ratio: int = 4
    scan: bool = True
    remat: bool = False
    dropout: float = 0.0
    tied: bool = False
    compute_dtype: str = "bfloat16"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.embed % self.heads:
            raise ValueError(f"embed {self.embed} is not divisible by heads {self.heads}")

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads


CONFIGS = {
    "gpt-tiny": Config(vocab=256, seq=64, layers=2, heads=4, embed=64),
    "gpt-125m": Config(layers=12, heads=12, embed=768),
    "gpt-350m": Config(layers=24, heads=16, embed=1024),
    "gpt-1.3b": Config(seq=2048, layers=24, heads=16, embed=2048, remat=True),
    "gpt-2.7b": Config(seq=2048, layers=32, heads=32, embed=2560, remat=True),
    "gpt-6.7b": Config(seq=2048, layers=32, heads=32, embed=4096, remat=True),
    "gpt-13b": Config(seq=2048, layers=40, heads=40, embed=5120, remat=True),
    "gpt-175b": Config(seq=2048, layers=96, heads=96, embed=12288, remat=True),
}


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with the config's constants."""
    return optax.adamw(config.learning_rate, b2=0.95, weight_decay=config.weight_decay)


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    e, h, d, f = config.embed, config.heads, config.head_dim, config.mlp_ratio * config.embed
    keys = jax.random.split(key, 6)
    into, out_of = 1 / math.sqrt(e), 1 / math.sqrt(2 * config.layers)
    return {
        "norm1": {"scale": jnp.ones(e), "bias": jnp.zeros(e)},
        "attention": {
            "query": jax.random.normal(keys[0], (e, h, d)) * into,
            "key": jax.random.normal(keys[1], (e, h, d)) * into,
            "value": jax.random.normal(keys[2], (e, h, d)) * into,
            "out": jax.random.normal(keys[3], (h, d, e)) * into * out_of,
        },
        "norm2": {"scale": jnp.ones(e), "bias": jnp.zeros(e)},
        "mlp": {
            "up": jax.random.normal(keys[4], (e, f)) * into,
            "down": jax.random.normal(keys[5], (f, e)) / math.sqrt(f) * out_of,
        },
    }


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`, and `key` when there is dropout."""
    embed_key, position_key, head_key, layers_key, dropout_key = jax.random.split(key, 5)
    layer_keys = jax.random.split(layers_key, config.layers)
    params: Params = {
        "embed": jax.random.normal(embed_key, (config.vocab, config.embed)) * 0.02,
        "position": jax.random.normal(position_key, (config.seq, config.embed)) * 0.02,
        "layers": jax.vmap(lambda k: init_layer(k, config))(layer_keys)
        if config.scan
        else [init_layer(k, config) for k in layer_keys],
        "final_norm": {"scale": jnp.ones(config.embed), "bias": jnp.zeros(config.embed)},
    }
    if not config.tied:
        params["head"] = jax.random.normal(head_key, (config.embed, config.vocab)) * 0.02
    state = {
        "params": params,
        "opt_state": optimizer(config).init(params),
        "step": jnp.zeros((), jnp.int32),
    }
    if config.dropout > 0:
        state["key"] = dropout_key
    return state


def attention(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """Causal self-attention of `x` `[batch, seq, embed]`; softmax in float32."""
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    query = jnp.einsum("bqe,ehd->bqhd", x, weight["query"])
    key = jnp.einsum("bke,ehd->bkhd", x, weight["key"])
    value = jnp.einsum("bke,ehd->bkhd", x, weight["value"])
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
    positions = jnp.arange(x.shape[1])
    causal = positions[:, None] >= positions[None, :]
    scores = jnp.where(causal, scores / math.sqrt(config.head_dim), -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return jnp.einsum("bqhd,hde->bqe", mixed, weight["out"])


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """Two matmuls with a GELU between."""
    hidden = jax.nn.gelu(x @ params["up"].astype(x.dtype))
    return hidden @ params["down"].astype(x.dtype)


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zero a fraction `rate` of `x`, and scale up the rest."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def layer(params: Params, key: jax.Array | None, x: jax.Array, config: Config) -> jax.Array:
    """One transformer layer on the residual stream `[batch, seq, embed]`."""
    after_attention = attention(params["attention"], layer_norm(params["norm1"], x), config)
    if key is not None:
        after_attention = dropout(jax.random.fold_in(key, 0), after_attention, config.dropout)
    x = x + after_attention
    after_mlp = mlp(params["mlp"], layer_norm(params["norm2"], x))
    if key is not None:
        after_mlp = dropout(jax.random.fold_in(key, 1), after_mlp, config.dropout)
    return x + after_mlp


def apply(
    params: Params, tokens: jax.Array, config: Config, key: jax.Array | None = None
) -> jax.Array:
    """Logits `[batch, seq, vocab]` in the compute dtype, for `tokens` `[batch, seq]`.

    Args:
        params: from `init`.
        tokens: int32.
        config: the one given to `init`.
        key: for dropout; None for none.
    """
    dtype = jnp.dtype(config.compute_dtype)
    x = params["embed"].astype(dtype)[tokens]
    x = x + params["position"].astype(dtype)[: tokens.shape[1]]

    def run(x: jax.Array, layer_params: Params, layer_key: jax.Array | None) -> jax.Array:
        return layer(layer_params, layer_key, x, config)

    if config.remat:
        run = jax.checkpoint(run, prevent_cse=not config.scan)  # a loop prevents it already
    keys = None if key is None else jax.random.split(key, config.layers)
    if config.scan:
        x, _ = jax.lax.scan(lambda x, slot: (run(x, *slot), None), x, (params["layers"], keys))
    else:
        for i, layer_params in enumerate(params["layers"]):
            x = run(x, layer_params, None if keys is None else keys[i])
    x = layer_norm(params["final_norm"], x)
    head = params["embed"].T if config.tied else params["head"]
    return x @ head.astype(dtype)


def loss(params: Params, batch: Batch, config: Config, key: jax.Array | None = None) -> jax.Array:
    """Mean cross-entropy per token in nats, float32."""
    logits = apply(params, batch["inputs"], config, key).astype(jnp.float32)
    target = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(state["key"], state["step"]) if config.dropout > 0 else None
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config, key)
        updates, opt_state = optimizer(config).update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return state | new, {"loss": value}

    return train_step


def example_batch(config: Config, batch_size: int, seed: int = 0) -> Batch:
    """Random tokens: `inputs` and `targets`, int32 `[batch, seq]`, one position apart."""
    shape = (batch_size, config.seq + 1)
    tokens = jax.random.randint(jax.random.key(seed), shape, 0, config.vocab, jnp.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values."""
    state = jax.jit(init, static_argnums=1)(jax.random.key(seed), config)
    return state, example_batch(config, batch_size, seed)


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step, recomputation by `remat` not counted.

    Per token 6 FLOPs for each matmul weight (Kaplan et al. 2020, section 2.1) and
    12 * layers * seq * embed for attention scores and their use, the masked half included.
    """
    per_layer = (4 + 2 * config.mlp_ratio) * config.embed**2
    weights = config.layers * per_layer + config.embed * config.vocab
    scores = 12 * config.layers * config.seq * config.embed
    return batch_size * config.seq * (6 * weights + scores)
