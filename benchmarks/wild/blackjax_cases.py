"""BlackJAX: samplers as pure kernels over a state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _data() -> tuple[Any, Any]:
    x = jax.random.normal(jax.random.key(0), (64, 16))
    return x, jnp.sin(x[:, 0]) + 0.1 * x[:, 1]


def _log_likelihood(position: Any, batch: Any) -> Any:
    x, y = batch
    residual = y - x @ position["w"] - position["b"]
    scale = jnp.exp(position["log_scale"])
    return -0.5 * jnp.sum((residual / scale) ** 2) - y.size * position["log_scale"]


def _log_prior(position: Any) -> Any:
    return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(position))


def _log_density(position: Any, batch: Any) -> Any:
    return _log_likelihood(position, batch) + _log_prior(position)


def _start(chains: int) -> Any:
    w = jax.random.normal(jax.random.key(1), (chains, 16)) / 4
    return {"w": w, "b": jnp.zeros(chains), "log_scale": jnp.zeros(chains)}


def _chains(algorithm_of: Any, chains: int = 8) -> Built:
    """Many chains of a sampler that is made anew from the batch in every step."""
    batch = _data()
    first = jax.vmap(algorithm_of(batch).init)(_start(chains))

    def step(state: Any, batch: Any) -> Any:
        chain, key = state
        key, now = jax.random.split(key)
        keys = jax.random.split(now, chains)
        chain, info = jax.vmap(algorithm_of(batch).step)(keys, chain)
        metrics = {"density": chain.logdensity, "accepted": info.acceptance_rate}
        return (chain, key), metrics

    return Built(step, (first, jax.random.key(2)), batch)


@case("blackjax")
def blackjax_hmc() -> Built:
    """Hamiltonian Monte Carlo, eight chains."""
    import blackjax

    def algorithm_of(batch: Any) -> Any:
        return blackjax.hmc(
            lambda position: _log_density(position, batch),
            step_size=0.02,
            inverse_mass_matrix=jnp.ones(18),
            num_integration_steps=4,
        )

    return _chains(algorithm_of)


@case("blackjax")
def blackjax_nuts() -> Built:
    """NUTS, eight chains under `vmap`: trees of different depth in one `while_loop`."""
    import blackjax

    def algorithm_of(batch: Any) -> Any:
        return blackjax.nuts(
            lambda position: _log_density(position, batch),
            step_size=0.05,
            inverse_mass_matrix=jnp.ones(18),
            max_num_doublings=3,
        )

    return _chains(algorithm_of)


@case("blackjax")
def blackjax_sgld() -> Built:
    """Stochastic-gradient Langevin dynamics: an ensemble on one minibatch."""
    import blackjax

    gradient = blackjax.sgmcmc.gradients.grad_estimator(
        lambda position: _log_prior(position),
        lambda position, row: _log_likelihood(position, (row[0][None], row[1][None])),
        data_size=1000,
    )
    sampler = blackjax.sgld(gradient)

    def step(state: Any, batch: Any) -> Any:
        positions, key = state
        key, now = jax.random.split(key)
        move = jax.vmap(sampler.step, in_axes=(0, 0, None, None))
        positions = move(jax.random.split(now, 8), positions, batch, 1e-5)
        density = jax.vmap(_log_density, in_axes=(0, None))(positions, batch)
        return (positions, key), {"density": density}

    return Built(step, (_start(8), jax.random.key(2)), _data())


@case("blackjax")
def blackjax_smc() -> Built:
    """Tempered sequential Monte Carlo: particles weighted, resampled, moved by HMC."""
    import blackjax
    from blackjax.smc import extend_params, resampling

    moves = {"step_size": 0.02, "inverse_mass_matrix": jnp.ones(18), "num_integration_steps": 2}

    def algorithm_of(batch: Any) -> Any:
        return blackjax.tempered_smc(
            _log_prior,
            lambda position: _log_likelihood(position, batch),
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            extend_params(moves),
            resampling.systematic,
            num_mcmc_steps=2,
        )

    def step(state: Any, batch: Any) -> Any:
        particles, key, temper = state
        key, now = jax.random.split(key)
        particles, info = algorithm_of(batch).step(now, particles, 1.5 * temper)
        metrics = {"evidence": info.log_likelihood_increment, "weights": particles.weights}
        return (particles, key, 1.5 * temper), metrics

    batch = _data()
    first = algorithm_of(batch).init(_start(32))
    return Built(step, (first, jax.random.key(2), jnp.float32(1e-3)), batch)


@case("blackjax")
def blackjax_svgd() -> Built:
    """Stein variational gradient descent: a kernel between all particles, its median width."""
    import blackjax
    import optax

    batch = _data()
    sampler = blackjax.svgd(jax.grad(_log_density), optax.sgd(1e-3))
    first = sampler.init(_start(32))

    def step(state: Any, batch: Any) -> Any:
        state = sampler.step(state, batch=batch)
        density = jax.vmap(_log_density, in_axes=(0, None))(state.particles, batch)
        return state, {"density": density}

    return Built(step, first, batch)
