"""e3nn-jax: equivariant layers on irreducible representations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


def _points(nodes: int) -> tuple[Any, Any, Any]:
    """Positions of a ring of points, each joined with its three next neighbours."""
    positions = jax.random.normal(jax.random.key(0), (nodes, 3))
    receivers = jnp.repeat(jnp.arange(nodes), 3)
    senders = (receivers + jnp.tile(jnp.arange(1, 4), nodes)) % nodes
    return positions, senders, receivers


@case("e3nn-jax")
def e3nn_message_passing() -> Built:
    """Spherical harmonics, tensor products, gated `Linear` layers in Flax, as in NequIP."""
    import e3nn_jax as e3nn
    import flax.linen as nn
    import optax

    class Layer(nn.Module):
        target: str

        @nn.compact
        def __call__(self, nodes: Any, positions: Any, senders: Any, receivers: Any) -> Any:
            vectors = e3nn.IrrepsArray("1o", positions[receivers] - positions[senders])
            harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", vectors, True)
            messages = e3nn.tensor_product(nodes[senders], harmonics)
            radial = e3nn.bessel(e3nn.norm(vectors).array[:, 0], 8, 5.0)
            weights = e3nn.flax.MultiLayerPerceptron([16, messages.irreps.num_irreps], nn.silu)
            messages = messages * weights(radial)
            gathered = e3nn.scatter_sum(messages, dst=receivers, output_size=nodes.shape[0])
            target = e3nn.Irreps(self.target)
            wanted = target + f"{target.filter(drop='0e + 0o').num_irreps}x0e"
            return e3nn.gate(e3nn.flax.Linear(wanted)(gathered / 3**0.5))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, positions: Any, senders: Any, receivers: Any) -> Any:
            nodes = e3nn.IrrepsArray("1x0e", jnp.ones((positions.shape[0], 1)))
            nodes = Layer("16x0e + 8x1o")(nodes, positions, senders, receivers)
            nodes = Layer("16x0e")(nodes, positions, senders, receivers)
            return e3nn.flax.Linear("0e")(nodes).array[:, 0]

    net = Net()
    graph = _points(16)
    params = net.init(jax.random.key(1), *graph)

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.mean((net.apply(params, *batch[0]) - batch[1]) ** 2)

    return trained(loss_fn, params, optax.sgd(1e-2), (graph, jnp.sin(jnp.arange(16.0))))


@case("e3nn-jax")
def e3nn_tensor_product() -> Built:
    """Haiku's `FullyConnectedTensorProduct`, batch norm over irreps, a batch of features."""
    import e3nn_jax as e3nn
    import haiku as hk
    import optax

    def forward(x: Any, y: Any) -> Any:
        x = e3nn.IrrepsArray("8x0e + 8x1o", x)
        y = e3nn.IrrepsArray("4x0e + 4x1o", y)
        z = e3nn.haiku.FullyConnectedTensorProduct("16x0e + 8x1o + 4x2e")(x, y)
        z = e3nn.haiku.BatchNorm()(z, is_training=True)
        z = e3nn.norm_activation(z, [jax.nn.tanh] * 3)
        return e3nn.haiku.Linear("4x0e + 4x1o")(z).array

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    x = jax.random.normal(jax.random.key(0), (16, 32))
    y = jax.random.normal(jax.random.key(1), (16, 16))
    params, stats = net.init(jax.random.PRNGKey(2), x, y)

    def loss_fn(params: Any, batch: Any) -> Any:
        out, _ = net.apply(params, stats, *batch)
        return jnp.mean((out - batch[1]) ** 2)

    return trained(loss_fn, params, optax.sgd(1e-2), (x, y))
