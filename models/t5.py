"""T5 in plain JAX: encoder and decoder, relative positions, one embedding for in- and output.

Sizes of the named configurations are those of Raffel et al. 2019, "Exploring the Limits of
Transfer Learning with a Unified Text-to-Text Transformer", section 3.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autoshard.models import parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        vocab: number of tokens.
        seq, target_seq: positions of the encoder and of the decoder.
        layers: of the encoder, and as many of the decoder.
        embed, heads, head_dim, hidden: width of the residual stream, attention heads and their
            width (which need not make up `embed`), width inside the MLP.
        buckets, distance: distances told apart, and the one from which all are alike.
        scan: keep the layers stacked and loop over them, instead of lists of layers.
        remat: recompute a layer's activations in the backward pass.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    vocab: int = 32128
    seq: int = 512
    target_seq: int = 128
    layers: int = 24
    embed: int = 1024
    heads: int = 16
    head_dim: int = 64
    hidden: int = 4096
    buckets: int = 32
    distance: int = 128
    scan: bool = True
    remat: bool = False
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim


CONFIGS = {
    "t5-tiny": Config(
        vocab=256, seq=32, target_seq=16, layers=2, embed=32, heads=8, head_dim=8, hidden=64
    ),
    "t5-large": Config(),
    "t5-3b": Config(heads=32, head_dim=128, hidden=16384, remat=True),
    "t5-11b": Config(heads=128, head_dim=128, hidden=65536, remat=True),
}


def _init_attention(key: jax.Array, config: Config) -> Params:
    e, h, d = config.embed, config.heads, config.head_dim
    keys = jax.random.split(key, 4)
    return {
        "query": parts.weight(keys[0], (e, h, d), e * d),  # scores are not scaled
        "key": parts.weight(keys[1], (e, h, d), e),
        "value": parts.weight(keys[2], (e, h, d), e),
        "out": parts.weight(keys[3], (h, d, e), h * d),
    }


def _init_layer(key: jax.Array, attentions: tuple[str, ...], config: Config) -> Params:
    e, f = config.embed, config.hidden
    up_key, down_key, *keys = jax.random.split(key, 2 + len(attentions))
    params: Params = {
        "mlp": {
            "norm": jnp.ones(e),
            "up": parts.weight(up_key, (e, f), e),
            "down": parts.weight(down_key, (f, e), f),
        }
    }
    for name, k in zip(attentions, keys, strict=True):
        params[name] = {"norm": jnp.ones(e), **_init_attention(k, config)}
    return params


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    embed_key, *keys = jax.random.split(key, 5)

    def stack(layers_key: jax.Array, bias_key: jax.Array, attentions: tuple[str, ...]) -> Params:
        return {
            "layers": parts.layer_params(
                lambda k: _init_layer(k, attentions, config),
                layers_key,
                config.layers,
                config.scan,
            ),
            "distance": jax.random.normal(bias_key, (config.buckets, config.heads)) * 0.1,
            "final_norm": jnp.ones(config.embed),
        }

    params = {
        "embed": jax.random.normal(embed_key, (config.vocab, config.embed)),
        "encoder": stack(keys[0], keys[1], ("self",)),
        "decoder": stack(keys[2], keys[3], ("self", "cross")),
    }
    return training.new_state(params, config)


def bucket(length: int, both_ways: bool, config: Config) -> jax.Array:
    """The bucket of every distance, `[query, key]`: exact when near, logarithmic when far."""
    back = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    count = config.buckets
    first = jnp.zeros_like(back)
    if both_ways:
        count //= 2
        first = jnp.where(back < 0, count, 0)
        back = jnp.abs(back)
    back = jnp.maximum(back, 0)
    exact = count // 2
    ratio = jnp.log(jnp.maximum(back, 1) / exact) / math.log(config.distance / exact)
    far = jnp.minimum(exact + (ratio * (count - exact)).astype(jnp.int32), count - 1)
    return first + jnp.where(back < exact, back, far)


def attention(
    params: Params,
    x: jax.Array,
    memory: jax.Array | None = None,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Attention of `x` `[batch, seq, embed]` to itself or to `memory`, added to `x`."""
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    normal = parts.rms_norm(params["norm"], x)
    seen = normal if memory is None else memory
    query = jnp.einsum("bse,ehd->bshd", normal, weight["query"])
    key = jnp.einsum("bse,ehd->bshd", seen, weight["key"])
    value = jnp.einsum("bse,ehd->bshd", seen, weight["value"])
    mixed = parts.attend(query, key, value, mask=mask, bias=bias, scale=1.0)
    return x + jnp.einsum("bshd,hde->bse", mixed, weight["out"])


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """Two matmuls with a ReLU between, added to `x`."""
    normal = parts.rms_norm(params["norm"], x)
    hidden = jax.nn.relu(normal @ params["up"].astype(x.dtype))
    return x + hidden @ params["down"].astype(x.dtype)


def encode(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """What the encoder makes of embedded inputs `[batch, seq, embed]`."""
    bias = params["distance"][bucket(x.shape[1], True, config)].transpose(2, 0, 1)

    def layer(layer_params: Params, x: jax.Array) -> jax.Array:
        return mlp(layer_params["mlp"], attention(layer_params["self"], x, bias=bias))

    x = parts.run_layers(layer, params["layers"], x, scan=config.scan, remat=config.remat)
    return parts.rms_norm(params["final_norm"], x)


def decode(params: Params, x: jax.Array, memory: jax.Array, config: Config) -> jax.Array:
    """What the decoder makes of embedded outputs so far and the encoder's `memory`."""
    bias = params["distance"][bucket(x.shape[1], False, config)].transpose(2, 0, 1)
    mask = parts.causal(x.shape[1])

    def layer(layer_params: Params, x: jax.Array) -> jax.Array:
        x = attention(layer_params["self"], x, bias=bias, mask=mask)
        return mlp(layer_params["mlp"], attention(layer_params["cross"], x, memory))

    x = parts.run_layers(layer, params["layers"], x, scan=config.scan, remat=config.remat)
    return parts.rms_norm(params["final_norm"], x)


def apply(params: Params, inputs: jax.Array, outputs: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, target_seq, vocab]` for the tokens that follow `outputs`."""
    embed = params["embed"].astype(config.compute_dtype)
    memory = encode(params["encoder"], embed[inputs], config)
    x = decode(params["decoder"], embed[outputs], memory, config)
    return (x / math.sqrt(config.embed)) @ embed.T


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per output token in nats, float32."""
    logits = apply(params, batch["inputs"], batch["outputs"], config)
    return training.cross_entropy(logits, batch["targets"])


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    return training.step_of(loss, config)


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values: `inputs`; `outputs` and `targets`, one position apart."""
    state = jax.jit(init, static_argnums=1)(jax.random.key(seed), config)
    inputs = training.token_batch(config.vocab, config.seq, batch_size, seed)["inputs"]
    shifted = training.token_batch(config.vocab, config.target_seq, batch_size, seed + 1)
    batch = {"inputs": inputs, "outputs": shifted["inputs"], "targets": shifted["targets"]}
    return state, batch


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; recomputation is not counted."""
    e, inner, s, t = config.embed, config.inner, config.seq, config.target_seq
    own = 4 * e * inner + 2 * e * config.hidden  # weights a token meets
    encoder = 2 * s * own + 4 * s * s * inner
    decoder = 2 * t * own + 4 * t * t * inner
    cross = 2 * (2 * t + 2 * s) * e * inner + 4 * t * s * inner
    forward = config.layers * (encoder + decoder + cross) + 2 * t * e * config.vocab
    return 3 * batch_size * forward
