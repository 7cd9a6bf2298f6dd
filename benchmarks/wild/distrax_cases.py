"""Distrax: distributions and bijectors inside losses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


@case("distrax")
def distrax_spline_flow() -> Built:
    """Distrax's flow example: masked couplings of rational-quadratic splines."""
    import distrax
    import haiku as hk
    import optax

    width, bins = 8, 4
    n_params = 3 * bins + 1

    def conditioner() -> Any:
        return hk.Sequential(
            [
                hk.nets.MLP([32], activate_final=True),
                hk.Linear(width * n_params, w_init=hk.initializers.RandomNormal(0.5)),
                hk.Reshape((width, n_params)),
            ]
        )

    def log_prob(x: Any) -> Any:
        mask = jnp.arange(width) % 2 == 0
        layers = []
        for _ in range(2):
            layers.append(
                distrax.MaskedCoupling(
                    mask=mask,
                    bijector=lambda p: distrax.RationalQuadraticSpline(p, 0.0, 1.0),
                    conditioner=conditioner(),
                )
            )
            mask = jnp.logical_not(mask)
        base = distrax.Independent(
            distrax.Uniform(jnp.zeros(width), jnp.ones(width)), reinterpreted_batch_ndims=1
        )
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain(layers))).log_prob(x)

    net = hk.without_apply_rng(hk.transform(log_prob))
    x = jax.random.beta(jax.random.key(0), 2.0, 3.0, (32, width))
    params = net.init(jax.random.PRNGKey(1), x)

    def loss_fn(params: Any, batch: Any) -> Any:
        return -jnp.mean(net.apply(params, batch))

    return trained(loss_fn, params, optax.sgd(1e-2), x)


@case("distrax")
def distrax_hmm() -> Built:
    """Likelihood of a hidden Markov model with Gaussian observations: forward in a scan."""
    import distrax
    import optax

    def loss_fn(params: Any, batch: Any) -> Any:
        model = distrax.HMM(
            init_dist=distrax.Categorical(params["first"]),
            trans_dist=distrax.Categorical(params["moves"]),
            obs_dist=distrax.MultivariateNormalDiag(params["mean"], jnp.exp(params["log_scale"])),
        )
        log_prob, _ = jax.vmap(lambda seen: model.forward(seen))(batch)
        return -jnp.mean(log_prob)

    params = {
        "first": jnp.zeros(4),
        "moves": jax.random.normal(jax.random.key(0), (4, 4)),
        "mean": jax.random.normal(jax.random.key(1), (4, 8)),
        "log_scale": jnp.zeros((4, 8)),
    }
    seen = jax.random.normal(jax.random.key(2), (16, 12, 8))
    return trained(loss_fn, params, optax.sgd(1e-2), seen)


@case("distrax")
def distrax_mixture_density() -> Built:
    """A mixture-density network: `MixtureSameFamily`, and the entropy of its weights."""
    import distrax
    import haiku as hk
    import optax

    def forward(x: Any) -> Any:
        h = hk.nets.MLP([64, 5 + 2 * 5 * 4])(x)
        weights, mean, scale = jnp.split(h, [5, 25], -1)
        shape = (*x.shape[:-1], 5, 4)
        return weights, mean.reshape(shape), jax.nn.softplus(scale.reshape(shape)) + 0.1

    net = hk.without_apply_rng(hk.transform(forward))
    x = jax.random.normal(jax.random.key(0), (32, 16))
    params = net.init(jax.random.PRNGKey(1), x)

    def loss_fn(params: Any, batch: Any) -> Any:
        weights, mean, scale = net.apply(params, batch)
        choice = distrax.Categorical(weights)
        parts = distrax.MultivariateNormalDiag(mean, scale)
        mixture = distrax.MixtureSameFamily(choice, parts)
        return -jnp.mean(mixture.log_prob(jnp.sin(batch[:, :4]))) - 0.1 * choice.entropy().mean()

    return trained(loss_fn, params, optax.sgd(1e-2), x)
