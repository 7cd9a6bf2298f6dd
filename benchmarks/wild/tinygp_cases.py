"""tinygp: marginal likelihoods of Gaussian processes, through Cholesky and state-space solvers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


@case("tinygp")
def tinygp_likelihood() -> Built:
    """A sum of kernels with a length per feature: a Cholesky factor of 64 x 64."""
    import optax
    import tinygp

    def loss_fn(params: Any, batch: Any) -> Any:
        x, y = batch
        smooth = tinygp.kernels.ExpSquared(distance=tinygp.kernels.L2Distance())
        rough = jnp.exp(params["rough"]) * tinygp.kernels.Matern32()
        kernel = tinygp.transforms.Linear(jnp.exp(-params["length"]), smooth + rough)
        gp = tinygp.GaussianProcess(kernel, x, diag=0.1, mean=params["mean"])
        return -gp.log_probability(y) / y.size

    x = jax.random.normal(jax.random.key(0), (64, 4))
    params = {"length": jnp.zeros(4), "rough": jnp.float32(-1.0), "mean": jnp.float32(0.0)}
    return trained(loss_fn, params, optax.sgd(1e-2), (x, jnp.sin(x.sum(-1))))


@case("tinygp")
def tinygp_many_series() -> Built:
    """Quasi-separable kernels: a scan over time for each of many series."""
    import optax
    import tinygp

    def one(params: Any, times: Any, y: Any) -> Any:
        kernel = jnp.exp(params["size"]) * tinygp.kernels.quasisep.Matern32(
            scale=jnp.exp(params["scale"])
        )
        gp = tinygp.GaussianProcess(kernel, times, diag=0.1)
        return -gp.log_probability(y)

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.mean(jax.vmap(one, in_axes=(0, None, 0))(params, *batch))

    times = jnp.linspace(0.0, 4.0, 24)
    y = jnp.sin(times + jnp.arange(16.0)[:, None])
    params = {"size": jnp.zeros(16), "scale": jnp.linspace(-0.5, 0.5, 16)}
    return trained(loss_fn, params, optax.sgd(1e-2), (times, y))


@case("tinygp")
def tinygp_conditioned() -> Built:
    """Predictive mean and variance at new points, given the data: no training."""
    import tinygp

    def step(state: Any, batch: Any) -> Any:
        x, y, new = batch
        kernel = tinygp.kernels.Matern52(scale=state)
        _, predicted = tinygp.GaussianProcess(kernel, x, diag=0.1).condition(y, new)
        return state * 1.1, {"mean": predicted.loc, "variance": predicted.variance}

    x, new = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in enumerate((48, 32)))
    return Built(step, jnp.float32(1.0), (x, jnp.sin(x.sum(-1)), new))
