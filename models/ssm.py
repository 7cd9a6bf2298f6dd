"""A selective state-space model in plain JAX, its recurrence run as an associative scan.

Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"; `ssm-1.4b`
has the sizes of its 1.4-billion model.
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
        vocab, seq, layers, embed: tokens, positions, layers, width of the residual stream.
        expand: width inside a layer over `embed`.
        states: numbers remembered per channel.
        window: of the convolution over positions.
        rank: of the step sizes' projection.
        scan: keep the layers stacked and loop over them, instead of a list of layers.
        remat: recompute a layer's activations in the backward pass.
        compute_dtype: of activations and of weights in use; weights at rest are float32, and so
            is the recurrence.
    """

    vocab: int = 50280
    seq: int = 2048
    layers: int = 48
    embed: int = 2048
    expand: int = 2
    states: int = 16
    window: int = 4
    rank: int = 128
    scan: bool = True
    remat: bool = True
    compute_dtype: str = "bfloat16"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1

    @property
    def inner(self) -> int:
        """Channels inside a layer."""
        return self.expand * self.embed


CONFIGS = {
    "ssm-tiny": Config(vocab=256, seq=16, layers=2, embed=32, states=4, rank=8, remat=False),
    "ssm-130m": Config(layers=24, embed=768, rank=48),
    "ssm-1.4b": Config(),
}


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    e, n, states, rank = config.embed, config.inner, config.states, config.rank
    keys = jax.random.split(key, 6)
    # Steps between 0.001 and 0.1, as the softplus of the bias.
    step = jnp.exp(jax.random.uniform(keys[5], (n,)) * math.log(100) + math.log(0.001))
    return {
        "norm": jnp.ones(e),
        "into": parts.weight(keys[0], (e, 2, n), e),
        "conv": {
            "kernel": parts.weight(keys[1], (config.window, 1, n), config.window),
            "bias": jnp.zeros(n),
        },
        "select": parts.weight(keys[2], (n, rank + 2 * states), n),
        "step": {
            "kernel": parts.weight(keys[3], (rank, n), rank),
            "bias": step + jnp.log(-jnp.expm1(-step)),
        },
        "decay": jnp.log(jnp.broadcast_to(jnp.arange(1.0, states + 1), (n, states))),
        "skip": jnp.ones(n),
        "out": parts.weight(keys[4], (n, e), n * 2 * config.layers),
    }


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    embed_key, layers_key = jax.random.split(key)
    params = {
        "embed": jax.random.normal(embed_key, (config.vocab, config.embed)) * 0.02,
        "layers": parts.layer_params(
            lambda k: init_layer(k, config), layers_key, config.layers, config.scan
        ),
        "final_norm": jnp.ones(config.embed),
    }
    return training.new_state(params, config)


def convolve(params: Params, x: jax.Array) -> jax.Array:
    """Every channel of `x` `[batch, seq, channel]` convolved over positions up to its own."""
    window, _, channels = params["kernel"].shape
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"].astype(x.dtype),
        window_strides=(1,),
        padding=((window - 1, 0),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=channels,
    )
    return y + params["bias"].astype(x.dtype)


def recur(decay: jax.Array, added: jax.Array) -> jax.Array:
    """`h[t] = decay[t] * h[t - 1] + added[t]` along dimension 1, for all t at once."""

    def join(
        before: tuple[jax.Array, jax.Array], after: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return before[0] * after[0], before[1] * after[0] + after[1]

    return jax.lax.associative_scan(join, (decay, added), axis=1)[1]


def select(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """The state-space model on `x` `[batch, seq, channel]`; what it keeps depends on `x`."""
    chosen = x @ params["select"].astype(x.dtype)
    low, write, read = jnp.split(chosen, [config.rank, config.rank + config.states], axis=-1)
    wide = x.astype(jnp.float32)
    step = (low @ params["step"]["kernel"].astype(x.dtype)).astype(jnp.float32)
    step = jax.nn.softplus(step + params["step"]["bias"])
    decay = jnp.exp(-step[..., None] * jnp.exp(params["decay"]))  # [batch, seq, channel, state]
    added = (step * wide)[..., None] * write.astype(jnp.float32)[:, :, None, :]
    states = recur(decay, added)
    y = jnp.einsum("bscn,bsn->bsc", states, read.astype(jnp.float32))
    return (y + params["skip"] * wide).astype(x.dtype)


def layer(params: Params, x: jax.Array, config: Config) -> jax.Array:
    """One layer on the residual stream `[batch, seq, embed]`."""
    normal = parts.rms_norm(params["norm"], x)
    both = jnp.einsum("bse,egc->gbsc", normal, params["into"].astype(x.dtype))
    inner = jax.nn.silu(convolve(params["conv"], both[0]))
    y = select(params, inner, config) * jax.nn.silu(both[1])
    return x + y @ params["out"].astype(x.dtype)


def apply(params: Params, tokens: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, seq, vocab]` in the compute dtype, for `tokens` `[batch, seq]`."""
    embed = params["embed"].astype(config.compute_dtype)
    x = parts.run_layers(
        lambda p, x: layer(p, x, config),
        params["layers"],
        embed[tokens],
        scan=config.scan,
        remat=config.remat,
    )
    return parts.rms_norm(params["final_norm"], x) @ embed.T


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


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; recomputation is not counted.

    Neither are the recurrence and the convolution by channel: they are elementwise work.
    """
    e, n, rank, states = config.embed, config.inner, config.rank, config.states
    weights = e * 2 * n + n * (rank + 2 * states) + rank * n + n * states + n * e
    forward = 2 * (config.layers * weights + e * config.vocab)
    return 3 * batch_size * config.seq * forward
