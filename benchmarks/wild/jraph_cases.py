"""Jraph: gathers and segment sums over ragged graphs packed into flat arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.wild.case import Built, case


def _graph(rng: Any) -> Any:
    import jraph

    sizes = [5, 7, 9, 11]
    graphs = [
        jraph.GraphsTuple(
            nodes=rng.normal(size=(n, 8)).astype(np.float32),
            edges=rng.normal(size=(2 * n, 4)).astype(np.float32),
            senders=rng.integers(0, n, 2 * n),
            receivers=rng.integers(0, n, 2 * n),
            globals=np.zeros((1, 4), np.float32),
            n_node=np.array([n]),
            n_edge=np.array([2 * n]),
        )
        for n in sizes
    ]
    packed = jraph.pad_with_graphs(jraph.batch(graphs), n_node=40, n_edge=80, n_graph=8)
    return jax.tree.map(jnp.asarray, packed)


@case("jraph")
def jraph_network() -> Built:
    """`jraph.GraphNetwork` with Haiku update functions, after Jraph's molecule example."""
    import haiku as hk
    import jraph
    import optax

    def mlp(x: Any) -> Any:
        return hk.nets.MLP([32, 16])(x)

    def forward(graph: Any) -> Any:
        net = jraph.GraphNetwork(
            update_edge_fn=jraph.concatenated_args(mlp),
            update_node_fn=jraph.concatenated_args(mlp),
            update_global_fn=jraph.concatenated_args(mlp),
        )
        embed = jraph.GraphMapFeatures(hk.Linear(16), hk.Linear(16), hk.Linear(16))
        return hk.Linear(2)(net(embed(graph)).globals)

    net = hk.without_apply_rng(hk.transform(forward))
    graph = _graph(np.random.default_rng(0))
    labels = jnp.arange(8) % 2
    params = net.init(jax.random.key(0), graph)
    optimizer = optax.sgd(0.05)

    def loss_fn(p: Any, batch: Any) -> Any:
        graph, labels = batch
        mask = jraph.get_graph_padding_mask(graph)
        loss = optax.softmax_cross_entropy_with_integer_labels(net.apply(p, graph), labels)
        return jnp.sum(loss * mask) / jnp.sum(mask)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Built(step, (params, optimizer.init(params)), (graph, labels))


@case("jraph")
def jraph_attention() -> Built:
    """`jraph.GAT`: softmax over the edges of every node."""
    import haiku as hk
    import jraph
    import optax

    def forward(graph: Any) -> Any:
        gat = jraph.GAT(
            attention_query_fn=hk.Linear(16),
            attention_logit_fn=lambda q, k, e: hk.Linear(1)(
                jax.nn.leaky_relu(jnp.concatenate([q, k], -1))
            ),
            node_update_fn=None,
        )
        graph = graph._replace(nodes=hk.Linear(16)(graph.nodes))
        return hk.Linear(1)(gat(graph).nodes)[:, 0]

    net = hk.without_apply_rng(hk.transform(forward))
    graph = _graph(np.random.default_rng(1))
    params = net.init(jax.random.key(0), graph)
    optimizer = optax.sgd(0.05)

    def step(state: Any, graph: Any) -> Any:
        params, opt_state = state

        def loss_fn(p: Any) -> Any:
            return jnp.mean((net.apply(p, graph) - graph.nodes[:, 0]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    # Softmax over edges takes no notice of what the bias of the logits adds to all of them.
    state = (params, optimizer.init(params))
    return Built(step, state, graph, zeros=("['linear_3']['b']",))
