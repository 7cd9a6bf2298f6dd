"""OTT-JAX: optimal transport, with derivatives through fixed points."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


@case("ott-jax")
def ott_sinkhorn() -> Built:
    """A generator trained by the Sinkhorn divergence of its points from the data's."""
    import optax
    from ott.geometry import pointcloud
    from ott.tools import sinkhorn_divergence

    def loss_fn(params: Any, batch: Any) -> Any:
        noise, data = batch
        made = jnp.tanh(noise @ params["w"]) @ params["v"]
        found = sinkhorn_divergence.sinkhorn_divergence(
            pointcloud.PointCloud, made, data, epsilon=0.5
        )
        return found[0] if isinstance(found, tuple) else found.divergence

    a, b, c, d = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(a, (4, 32)) / 2, "v": jax.random.normal(b, (32, 2)) / 6}
    batch = (jax.random.normal(c, (64, 4)), jax.random.normal(d, (48, 2)) + 1)
    return trained(loss_fn, params, optax.sgd(0.1), batch)
