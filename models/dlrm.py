"""A recommendation model in plain JAX: large embedding tables between two small MLPs.

Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation
Systems"; `dlrm-base` has the sizes of MLPerf Training's benchmark of that name (tables of at most
40 million rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp

from autoshard.models import parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        features: dense input features.
        rows: of each embedding table.
        embed: width of an embedding.
        bottom: widths of the MLP over the dense features; ends in `embed`.
        top: widths of the MLP over all interactions; ends in 1.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    features: int
    rows: tuple[int, ...]
    embed: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.bottom[-1] != self.embed:
            raise ValueError(f"bottom {self.bottom} does not end in embed {self.embed}")
        if self.top[-1] != 1:
            raise ValueError(f"top {self.top} does not end in 1")

    @property
    def vectors(self) -> int:
        """Vectors that interact: one per table, and one for the dense features."""
        return len(self.rows) + 1

    @property
    def interactions(self) -> int:
        """Inputs of the top MLP: the dense vector and all pairs of vectors."""
        return self.embed + self.vectors * (self.vectors - 1) // 2


# fmt: off
_CRITEO = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956,
    405_282, 10, 2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152,
    12_973, 108, 36,
)
# fmt: on

CONFIGS = {
    "dlrm-tiny": Config(4, (64, 128, 3, 256), 16, (32, 16), (32, 1)),
    "dlrm-base": Config(13, _CRITEO, 128, (512, 256, 128), (1024, 1024, 512, 256, 1)),
}


def _mlp_params(key: jax.Array, sizes: tuple[int, ...]) -> list[Params]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        parts.dense_params(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    bottom_key, top_key, *keys = jax.random.split(key, 2 + len(config.rows))
    params = {
        "tables": [
            parts.weight(k, (rows, config.embed), config.embed)
            for k, rows in zip(keys, config.rows, strict=True)
        ],
        "bottom": _mlp_params(bottom_key, (config.features, *config.bottom)),
        "top": _mlp_params(top_key, (config.interactions, *config.top)),
    }
    return training.new_state(params, config)


def apply(params: Params, dense: jax.Array, sparse: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch]` for `dense` `[batch, features]` and `sparse` `[batch, table]` (rows)."""
    x = dense.astype(config.compute_dtype)
    for layer in params["bottom"]:
        x = jax.nn.relu(parts.dense(layer, x))
    # Rows are looked up first and cast then: tables are never copied.
    looked_up = [table[sparse[:, i]].astype(x.dtype) for i, table in enumerate(params["tables"])]
    vectors = jnp.stack([x, *looked_up], axis=1)
    pairs = jnp.einsum("bie,bje->bij", vectors, vectors)
    first, second = jnp.triu_indices(config.vectors, 1)
    x = jnp.concatenate([x, pairs[:, first, second]], axis=1)
    for layer in params["top"][:-1]:
        x = jax.nn.relu(parts.dense(layer, x))
    return parts.dense(params["top"][-1], x)[:, 0]


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean binary cross-entropy in nats, float32."""
    logits = apply(params, batch["dense"], batch["sparse"], config).astype(jnp.float32)
    return jnp.mean(jax.nn.softplus(logits) - logits * batch["clicked"])


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    return training.step_of(loss, config)


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values: `dense`, `sparse` and `clicked`."""
    state_key, dense_key, sparse_key, click_key = jax.random.split(jax.random.key(seed), 4)
    rows = jnp.array(config.rows, jnp.int32)
    batch = {
        "dense": jax.random.normal(dense_key, (batch_size, config.features)),
        "sparse": jax.random.randint(sparse_key, (batch_size, len(config.rows)), 0, rows),
        "clicked": jax.random.bernoulli(click_key, 0.5, (batch_size,)).astype(jnp.float32),
    }
    return jax.jit(init, static_argnums=1)(state_key, config), batch


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; the dense features need no gradient."""
    bottom, top = (config.features, *config.bottom), (config.interactions, *config.top)
    weights = sum(a * b for s in (bottom, top) for a, b in pairwise(s))
    pairs = config.vectors**2 * config.embed
    return 2 * batch_size * (3 * (weights + pairs) - bottom[0] * bottom[1])
