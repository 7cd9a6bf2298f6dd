"""GPJax: Gaussian processes as Equinox modules."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.equinox_cases import built


@case("gpjax")
def gpjax_marginal_likelihood() -> Built:
    """A Matern kernel's hyperparameters by the conjugate marginal likelihood."""
    import gpjax as gpx
    import optax

    x = jnp.linspace(-3, 3, 32)[:, None]
    data = gpx.Dataset(X=x, y=jnp.sin(3 * x))
    prior = gpx.gps.Prior(mean_function=gpx.mean_functions.Zero(), kernel=gpx.kernels.Matern32())
    posterior = prior * gpx.likelihoods.Gaussian(obs_stddev=jnp.float32(0.5))

    def loss_fn(model: Any, data: Any) -> Any:
        return -gpx.objectives.conjugate_mll(model, data) / 32

    return built(posterior, loss_fn, optax.sgd(0.01), data)
