"""A mixture of experts in plain JAX: Llama's layer with several MLPs, of which each token takes k.

Two ways of bringing tokens to experts: `dense` (Lepikhin et al. 2020, "GShard": one-hot matmuls
into buffers of fixed capacity; tokens beyond it are dropped) and `ragged` (Gale et al. 2022,
"MegaBlocks": tokens sorted by expert, products over groups of rows, nothing dropped).
Sizes of `moe-8x7b` are those of Jiang et al. 2024, "Mixtral of Experts".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from autoshard.models import llama, parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config(llama.Config):
    """Sizes and training constants; those of `llama.Config`, and of the experts.

    Attributes:
        experts: MLPs in a layer.
        chosen: experts each token takes.
        capacity: room in an expert's buffer over its even share of one sequence (dense only).
        dispatch: "dense" or "ragged".
        balance: weight of the loss that keeps the experts evenly used.
    """

    experts: int = 8
    chosen: int = 2
    capacity: float = 1.25
    dispatch: str = "dense"
    balance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dispatch not in ("dense", "ragged"):
            raise ValueError(f"dispatch is {self.dispatch!r}, not 'dense' or 'ragged'")
        if self.chosen > self.experts:
            raise ValueError(f"chosen {self.chosen} is more than experts {self.experts}")

    @property
    def slots(self) -> int:
        """Tokens an expert takes from one sequence at most (dense only)."""
        return math.ceil(self.capacity * self.chosen * self.seq / self.experts)


_TINY = Config(
    vocab=256,
    seq=32,
    layers=2,
    embed=64,
    heads=8,
    kv_heads=4,
    hidden=96,
    experts=4,
    remat=False,
)
_8X7B = Config(vocab=32000, seq=4096, theta=1e6)

CONFIGS = {
    "moe-tiny": _TINY,
    "moe-tiny-ragged": replace(_TINY, dispatch="ragged"),
    "moe-8x7b": _8X7B,
    "moe-8x7b-ragged": replace(_8X7B, dispatch="ragged"),
}


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    e, f, n = config.embed, config.hidden, config.experts
    keys = jax.random.split(key, 5)
    return {
        "norm1": jnp.ones(e),
        "attention": llama.init_attention(keys[0], config),
        "norm2": jnp.ones(e),
        "router": parts.weight(keys[1], (e, n), e),
        "experts": {
            "gate": parts.weight(keys[2], (n, e, f), e),
            "up": parts.weight(keys[3], (n, e, f), e),
            "down": parts.weight(keys[4], (n, f, e), f * 2 * config.layers),
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


def route(
    router: jax.Array, x: jax.Array, config: Config
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which experts each token takes.

    Returns:
        Weights and experts, `[batch, seq, chosen]`, float32 and int32, and the loss that is least
        (1) when experts are evenly used (Fedus et al. 2021, equation 4).
    """
    odds = jax.nn.softmax((x @ router.astype(x.dtype)).astype(jnp.float32), axis=-1)
    gates, experts = jax.lax.top_k(odds, config.chosen)
    gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
    used = jnp.mean(jax.nn.one_hot(experts, config.experts), axis=(0, 1, 2))
    return gates, experts, config.experts * jnp.sum(used * jnp.mean(odds, axis=(0, 1)))


def dense_experts(
    params: Params, x: jax.Array, gates: jax.Array, experts: jax.Array, config: Config
) -> jax.Array:
    """The experts' MLPs over buffers `[expert, batch, slot, embed]` filled by one-hot matmuls."""
    batch, seq, _ = x.shape
    choice = jax.nn.one_hot(experts, config.experts)  # [batch, seq, chosen, expert]
    # A choice's place in its expert's buffer: how many of the sequence's came before.
    flat = choice.reshape(batch, seq * config.chosen, config.experts)
    place = (jnp.cumsum(flat, axis=1) - flat).reshape(choice.shape)
    place = jnp.sum(place * choice, axis=-1).astype(jnp.int32)
    slot = jax.nn.one_hot(place, config.slots)  # all zero beyond the last slot
    dispatch = jnp.einsum("bske,bskc->bsec", choice, slot).astype(x.dtype)
    combine = jnp.einsum("bske,bskc->bsec", choice * gates[..., None], slot).astype(x.dtype)
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    inputs = jnp.einsum("bsec,bsm->ebcm", dispatch, x)
    gate = jnp.einsum("ebcm,emf->ebcf", inputs, weight["gate"])
    up = jnp.einsum("ebcm,emf->ebcf", inputs, weight["up"])
    outputs = jnp.einsum("ebcf,efm->ebcm", jax.nn.silu(gate) * up, weight["down"])
    return jnp.einsum("bsec,ebcm->bsm", combine, outputs)


def ragged_experts(
    params: Params, x: jax.Array, gates: jax.Array, experts: jax.Array, config: Config
) -> jax.Array:
    """The experts' MLPs over all tokens sorted by expert."""
    tokens = x.reshape(-1, config.embed)
    order = jnp.argsort(experts.reshape(-1))
    source = order // config.chosen
    sizes = jnp.bincount(experts.reshape(-1), length=config.experts).astype(jnp.int32)
    weight = {name: p.astype(x.dtype) for name, p in params.items()}
    inputs = tokens[source]
    gate = jax.lax.ragged_dot(inputs, weight["gate"], sizes)
    up = jax.lax.ragged_dot(inputs, weight["up"], sizes)
    outputs = jax.lax.ragged_dot(jax.nn.silu(gate) * up, weight["down"], sizes)
    outputs = outputs * gates.reshape(-1)[order, None].astype(x.dtype)
    return jnp.zeros_like(tokens).at[source].add(outputs).reshape(x.shape)


def layer(
    params: Params, carry: tuple[jax.Array, jax.Array], config: Config
) -> tuple[jax.Array, jax.Array]:
    """One layer on the residual stream `[batch, seq, embed]` and the sum of balance losses."""
    x, balance = carry
    attention = llama.attention(params["attention"], parts.rms_norm(params["norm1"], x), config)
    x = x + attention
    normal = parts.rms_norm(params["norm2"], x)
    gates, experts, uneven = route(params["router"], normal, config)
    run = dense_experts if config.dispatch == "dense" else ragged_experts
    return x + run(params["experts"], normal, gates, experts, config), balance + uneven


def apply(params: Params, tokens: jax.Array, config: Config) -> tuple[jax.Array, jax.Array]:
    """Logits `[batch, seq, vocab]` for `tokens` `[batch, seq]`, and the mean balance loss."""
    x = params["embed"].astype(config.compute_dtype)[tokens]
    x, balance = parts.run_layers(
        lambda p, carry: layer(p, carry, config),
        params["layers"],
        (x, jnp.zeros(())),
        scan=config.scan,
        remat=config.remat,
    )
    logits = parts.rms_norm(params["final_norm"], x) @ params["head"].astype(x.dtype)
    return logits, balance / config.layers


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per token in nats and the weighted balance loss, float32."""
    logits, balance = apply(params, batch["inputs"], config)
    return training.cross_entropy(logits, batch["targets"]) + config.balance * balance


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

    Of the dense dispatch every slot is counted, filled or not, and the one-hot matmuls too: the
    two masks, built once forwards (and for one of them once backwards), and their use.
    """
    c, e, n = config, config.embed, config.experts
    everywhere = c.layers * (llama.attention_flops(c) + 2 * e * n) + 2 * e * c.vocab
    total = 3 * batch_size * c.seq * everywhere
    expert = 6 * e * c.hidden
    if c.dispatch == "ragged":
        return total + c.layers * 3 * batch_size * c.seq * c.chosen * expert
    masks = 3 * 2 * c.seq * c.chosen * n * c.slots
    moves = (2 + 3) * 2 * c.seq * n * c.slots * e  # the dispatch mask itself has no gradient
    return total + c.layers * batch_size * (masks + moves + 3 * n * c.slots * expert)
