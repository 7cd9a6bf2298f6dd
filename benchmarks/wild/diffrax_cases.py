"""Diffrax: differential equations solved inside a step, and trained through."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.equinox_cases import built


@case("diffrax")
def diffrax_neural_ode() -> Built:
    """Diffrax's neural ODE example: an `eqx.nn.MLP` field, `Tsit5`, adaptive steps."""
    import diffrax
    import equinox as eqx
    import optax

    times = jnp.linspace(0.0, 1.0, 8)

    def solve(field: Any, y0: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y)),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=0.1,
            y0=y0,
            stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
            saveat=diffrax.SaveAt(ts=times),
            max_steps=64,
        )
        return solution.ys

    def loss_fn(field: Any, batch: Any) -> Any:
        paths = jax.vmap(solve, in_axes=(None, 0))(field, batch[:, 0])
        return jnp.mean((paths - batch) ** 2)

    field = eqx.nn.MLP(2, 2, 32, 2, activation=jax.nn.softplus, key=jax.random.key(0))
    phase = jax.random.uniform(jax.random.key(1), (8, 1)) * 6 + times
    batch = jnp.stack([jnp.sin(phase), jnp.cos(phase)], -1)
    return built(field, loss_fn, optax.sgd(1e-2), batch)


@case("diffrax")
def diffrax_sde() -> Built:
    """A neural SDE: a virtual Brownian tree for each path, reversible Heun, constant steps."""
    import diffrax
    import equinox as eqx
    import optax

    width = 4

    def solve(nets: Any, y0: Any, key: Any) -> Any:
        drift, diffusion = nets
        noise = diffrax.VirtualBrownianTree(0.0, 1.0, tol=0.02, shape=(width,), key=key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: drift(y)),
            diffrax.ControlTerm(lambda t, y, args: jnp.diag(diffusion(y)), noise),
        )
        solution = diffrax.diffeqsolve(
            terms, diffrax.ReversibleHeun(), t0=0.0, t1=1.0, dt0=0.1, y0=y0, max_steps=16
        )
        return solution.ys[-1]

    def loss_fn(nets: Any, batch: Any) -> Any:
        starts, keys, target = batch
        ends = jax.vmap(solve, in_axes=(None, 0, 0))(nets, starts, keys)
        return jnp.mean((ends - target) ** 2)

    a, b = jax.random.split(jax.random.key(0))
    drift = eqx.nn.MLP(width, width, 32, 1, key=a)
    diffusion = eqx.nn.MLP(width, width, 32, 1, final_activation=jax.nn.sigmoid, key=b)
    starts = jax.random.normal(jax.random.key(1), (16, width))
    batch = (starts, jax.random.split(jax.random.key(2), 16), jnp.tanh(starts))
    return built((drift, diffusion), loss_fn, optax.sgd(1e-2), batch)


@case("diffrax")
def diffrax_ensemble() -> Built:
    """An ensemble of forced oscillators, `Dopri5`, advanced by one interval a step."""
    import diffrax

    def field(t: Any, y: Any, stiffness: Any) -> Any:
        return {"x": y["v"], "v": -stiffness @ y["x"] - 0.1 * y["v"] + jnp.sin(t)}

    def advance(y: Any, stiffness: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            t0=0.0,
            t1=0.5,
            dt0=0.05,
            y0=y,
            args=stiffness,
            saveat=diffrax.SaveAt(t1=True),
        )
        return jax.tree.map(lambda leaf: leaf[-1], solution.ys)

    def step(state: Any, batch: Any) -> Any:
        state = jax.vmap(advance, in_axes=(0, None))(state, batch)
        return state, {"energy": jnp.sum(state["v"] ** 2, -1)}

    a = jax.random.normal(jax.random.key(0), (8, 8)) / 4
    x = jax.random.normal(jax.random.key(1), (16, 8))
    return Built(step, {"x": x, "v": jnp.zeros_like(x)}, a @ a.T + jnp.eye(8))
