"""NumPyro: models as effectful functions, variational inference and Hamiltonian steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _regression(x: Any, y: Any) -> None:
    """Bayesian logistic regression with a shrinkage prior on its scale."""
    import numpyro
    from numpyro import distributions as dist

    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    weights = numpyro.sample("weights", dist.Normal(jnp.zeros(x.shape[-1]), scale).to_event(1))
    bias = numpyro.sample("bias", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ weights + bias), obs=y)


def _data() -> tuple[Any, Any]:
    x = jax.random.normal(jax.random.key(0), (64, 16))
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).astype(jnp.float32)


@case("numpyro")
def numpyro_svi() -> Built:
    """`SVI.update` with an `AutoNormal` guide and several particles."""
    import optax
    from numpyro import infer

    x, y = _data()
    guide = infer.autoguide.AutoNormal(_regression)
    loss = infer.Trace_ELBO(num_particles=8)
    svi = infer.SVI(_regression, guide, optax.sgd(1e-3), loss)
    first = svi.init(jax.random.PRNGKey(0), x, y)

    def step(state: Any, batch: Any) -> Any:
        state, loss = svi.update(state, *batch)
        return state, {"loss": loss}

    return Built(step, first, (x, y))


@case("numpyro")
def numpyro_hmc() -> Built:
    """Chains side by side: leapfrog steps on the model's potential energy, accepted or not."""
    from numpyro.infer import HMC

    x, y = _data()
    kernel = HMC(_regression, step_size=0.02, num_steps=4, trajectory_length=None)
    keys = jax.random.split(jax.random.PRNGKey(0), 8)
    first = kernel.init(keys, 0, None, (x, y), {})

    def step(state: Any, batch: Any) -> Any:
        state = kernel.sample(state, batch, {})
        return state, {"energy": state.potential_energy, "accepted": state.accept_prob}

    return Built(step, first, (x, y))


@case("numpyro")
def numpyro_nuts() -> Built:
    """One chain of the No-U-Turn sampler: a tree doubled in a `while_loop`."""
    from numpyro.infer import NUTS

    x, y = _data()
    kernel = NUTS(_regression, step_size=0.05, adapt_step_size=False, max_tree_depth=3)
    first = kernel.init(jax.random.PRNGKey(0), 0, None, (x, y), {})

    def step(state: Any, batch: Any) -> Any:
        state = kernel.sample(state, batch, {})
        return state, {"energy": state.potential_energy, "steps": state.num_steps}

    return Built(step, first, (x, y))


@case("numpyro")
def numpyro_mixture() -> Built:
    """Maximum a posteriori for a Gaussian mixture whose assignments are summed out."""
    import numpyro
    import optax
    from numpyro import distributions as dist
    from numpyro import infer

    def model(points: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(4)))
        with numpyro.plate("components", 4):
            centre = numpyro.sample("centre", dist.Normal(0.0, 3.0).expand([8]).to_event(1))
            spread = numpyro.sample("spread", dist.LogNormal(0.0, 0.5).expand([8]).to_event(1))
        parts = dist.Normal(centre, spread).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), parts)
        with numpyro.plate("data", points.shape[0]):
            numpyro.sample("point", mixture, obs=points)

    points = jax.random.normal(jax.random.key(0), (64, 8)) + jnp.arange(64)[:, None] % 4
    guide = infer.autoguide.AutoDelta(model)
    svi = infer.SVI(model, guide, optax.sgd(1e-4), infer.Trace_ELBO())
    first = svi.init(jax.random.PRNGKey(0), points)

    def step(state: Any, batch: Any) -> Any:
        state, loss = svi.update(state, batch)
        return state, {"loss": loss}

    return Built(step, first, points)
