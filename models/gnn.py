"""A graph network in plain JAX: messages along edges, summed where they arrive.

Battaglia et al. 2018, "Relational inductive biases, deep learning, and graph networks". Sizes of
`gnn-base` are those of the processor in Lam et al. 2022, "GraphCast" (16 layers of width 512 over
40,962 nodes and 327,660 edges), rounded so that they divide.
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
        nodes, edges: of one graph; a batch is one graph with as many separate parts.
        features: of a node and of an edge in the input.
        layers, width: rounds of messages, and the width of all they carry.
        targets: numbers to predict for a node.
        scan: keep the layers stacked and loop over them, instead of a list of layers.
        remat: recompute a layer's activations in the backward pass.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    nodes: int = 40960
    edges: int = 327680
    features: int = 128
    layers: int = 16
    width: int = 512
    targets: int = 256
    scan: bool = True
    remat: bool = True
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1


CONFIGS = {
    "gnn-tiny": Config(nodes=8, edges=32, features=8, layers=2, width=32, targets=8, remat=False),
    "gnn-base": Config(),
}


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    w = config.width
    keys = jax.random.split(key, 4)
    return {
        "edge": {
            "norm": parts.norm_params(3 * w),
            "up": parts.dense_params(keys[0], 3 * w, w),
            "down": parts.dense_params(keys[1], w, w),
        },
        "node": {
            "norm": parts.norm_params(2 * w),
            "up": parts.dense_params(keys[2], 2 * w, w),
            "down": parts.dense_params(keys[3], w, w),
        },
    }


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    node_key, edge_key, layers_key, head_key = jax.random.split(key, 4)
    params = {
        "nodes": parts.dense_params(node_key, config.features, config.width),
        "edges": parts.dense_params(edge_key, config.features, config.width),
        "layers": parts.layer_params(
            lambda k: init_layer(k, config), layers_key, config.layers, config.scan
        ),
        "head": parts.dense_params(head_key, config.width, config.targets),
    }
    return training.new_state(params, config)


def mlp(params: Params, *inputs: jax.Array) -> jax.Array:
    """A normalised MLP over all inputs side by side."""
    x = parts.layer_norm(params["norm"], jnp.concatenate(inputs, axis=-1))
    return parts.dense(params["down"], jax.nn.silu(parts.dense(params["up"], x)))


def apply(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Predictions `[node, targets]`.

    Args:
        params: from `init`.
        batch: `nodes` `[node, features]`, `edges` `[edge, features]`, and for each edge the
            nodes it joins, `senders` and `receivers`.
        config: the one given to `init`.
    """
    senders, receivers = batch["senders"], batch["receivers"]
    nodes = parts.dense(params["nodes"], batch["nodes"].astype(config.compute_dtype))
    edges = parts.dense(params["edges"], batch["edges"].astype(config.compute_dtype))

    def layer(one: Params, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        nodes, edges = carry
        edges = edges + mlp(one["edge"], edges, nodes[senders], nodes[receivers])
        arrived = jax.ops.segment_sum(edges, receivers, num_segments=nodes.shape[0])
        return nodes + mlp(one["node"], nodes, arrived), edges

    nodes, _ = parts.run_layers(
        layer, params["layers"], (nodes, edges), scan=config.scan, remat=config.remat
    )
    return parts.dense(params["head"], nodes)


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean squared error, float32."""
    error = apply(params, batch, config).astype(jnp.float32) - batch["targets"]
    return jnp.mean(jnp.square(error))


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    return training.step_of(loss, config)


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and `batch_size` random graphs as one, with values."""
    state_key, *keys = jax.random.split(jax.random.key(seed), 6)
    nodes, edges = batch_size * config.nodes, batch_size * config.edges
    first = jnp.repeat(jnp.arange(batch_size, dtype=jnp.int32) * config.nodes, config.edges)

    def ends(key: jax.Array) -> jax.Array:
        return first + jax.random.randint(key, (edges,), 0, config.nodes, jnp.int32)

    batch = {
        "nodes": jax.random.normal(keys[0], (nodes, config.features)),
        "edges": jax.random.normal(keys[1], (edges, config.features)),
        "senders": ends(keys[2]),
        "receivers": ends(keys[3]),
        "targets": jax.random.normal(keys[4], (nodes, config.targets)),
    }
    return jax.jit(init, static_argnums=1)(state_key, config), batch


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """Matmul FLOPs of one train step; the input needs no gradient, recomputation is not counted.

    In the last layer edges are updated too, since the nodes read them.
    """
    w, features = config.width, config.features
    edges = config.layers * 4 * w * w * config.edges
    nodes = (config.layers * 3 * w * w + w * config.targets) * config.nodes
    inputs = features * w * (config.nodes + config.edges)
    return 2 * batch_size * (3 * (edges + nodes) + 2 * inputs)
