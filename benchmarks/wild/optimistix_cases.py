"""Optimistix and Lineax: nonlinear and linear solves with implicit derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


@case("optimistix")
def optimistix_levenberg_marquardt() -> Built:
    """Many small curve fits side by side: `least_squares` under `vmap`."""
    import optimistix as optx

    solver = optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4)
    times = jnp.linspace(0.0, 2.0, 12)

    def residual(params: Any, y: Any) -> Any:
        return params["size"] * jnp.exp(-params["rate"] * times) - y

    def fit(start: Any, y: Any) -> Any:
        return optx.least_squares(residual, solver, start, args=y, max_steps=8, throw=False).value

    def step(state: Any, batch: Any) -> Any:
        fits = jax.vmap(fit)(state, batch)
        state = jax.tree.map(lambda a, b: 0.5 * (a + b), state, fits)
        return state, {"fits": fits}

    rates = jnp.linspace(0.5, 1.5, 32)
    start = {"size": jnp.full(32, 0.8), "rate": jnp.ones(32)}
    return Built(step, start, jnp.exp(-rates[:, None] * times) + 0.01 * jnp.cos(9 * times))


@case("optimistix")
def optimistix_equilibrium() -> Built:
    """A deep-equilibrium layer: a fixed point in the forward pass, implicit gradients."""
    import optax
    import optimistix as optx

    solver = optx.FixedPointIteration(rtol=1e-5, atol=1e-5)

    def layer(h: Any, args: Any) -> Any:
        params, x = args
        return jnp.tanh(h @ params["w"] + x @ params["u"])

    def loss_fn(params: Any, batch: Any) -> Any:
        start = jnp.zeros((batch.shape[0], 32))
        solved = optx.fixed_point(layer, solver, start, args=(params, batch), max_steps=64)
        return jnp.mean((solved.value[:, :16] - jnp.sin(batch)) ** 2)

    a, b = jax.random.split(jax.random.key(0))
    params = {"w": jax.random.normal(a, (32, 32)) / 20, "u": jax.random.normal(b, (16, 32)) / 4}
    return trained(loss_fn, params, optax.sgd(0.1), jax.random.normal(jax.random.key(1), (32, 16)))


@case("optimistix")
def optimistix_newton() -> Built:
    """An implicit Euler step of a stiff system: `root_find` by Newton, an LU inside."""
    import optimistix as optx

    solver = optx.Newton(rtol=1e-5, atol=1e-5)

    def step(state: Any, batch: Any) -> Any:
        def residual(new: Any, old: Any) -> Any:
            return new - old + 0.1 * (batch @ new + new**3)

        def advance(y: Any) -> Any:
            return optx.root_find(residual, solver, y, args=y, max_steps=16, throw=False).value

        state = jax.vmap(advance)(state)
        return state, {"energy": jnp.sum(state**2, -1)}

    a = jax.random.normal(jax.random.key(0), (8, 8))
    y = jax.random.normal(jax.random.key(1), (16, 8))
    return Built(step, y, a @ a.T)


@case("lineax")
def lineax_cg() -> Built:
    """A loss on the solution of a linear system, by conjugate gradients on an operator."""
    import lineax as lx
    import optax

    def loss_fn(params: Any, batch: Any) -> Any:
        def apply(v: Any) -> Any:
            return params["factor"].T @ (params["factor"] @ v) + v

        structure = jax.eval_shape(lambda: batch[0])
        operator = lx.FunctionLinearOperator(apply, structure, tags=lx.positive_semidefinite_tag)
        solver = lx.CG(rtol=1e-6, atol=1e-6, max_steps=100)
        x = lx.linear_solve(operator, batch[0], solver, throw=False).value
        return jnp.mean((x - batch[1]) ** 2)

    factor = jax.random.normal(jax.random.key(0), (24, 32)) / 8
    batch = (jax.random.normal(jax.random.key(1), (32,)), jnp.ones(32))
    return trained(loss_fn, {"factor": factor}, optax.sgd(0.1), batch)


@case("lineax")
def lineax_factorized() -> Built:
    """LU, Cholesky, QR, a triangular and a tridiagonal solve, each for a batch of sides."""
    import lineax as lx
    import optax

    def solve(operator: Any, solver: Any, sides: Any) -> Any:
        return jax.vmap(lambda side: lx.linear_solve(operator, side, solver).value)(sides)

    def loss_fn(params: Any, sides: Any) -> Any:
        a = params["a"]
        definite = a @ a.T + jnp.eye(16)
        diagonal, off = 4.0 + a[0] ** 2, a[1, 1:]
        solutions = (
            solve(lx.MatrixLinearOperator(a + 4 * jnp.eye(16)), lx.LU(), sides),
            solve(
                lx.MatrixLinearOperator(definite, lx.positive_semidefinite_tag),
                lx.Cholesky(),
                sides,
            ),
            solve(lx.MatrixLinearOperator(a[:, :8]), lx.QR(), sides),
            solve(
                lx.MatrixLinearOperator(jnp.tril(a) + 4 * jnp.eye(16), lx.lower_triangular_tag),
                lx.Triangular(),
                sides,
            ),
            solve(lx.TridiagonalLinearOperator(diagonal, off, off), lx.Tridiagonal(), sides),
        )
        return sum(jnp.mean(x**2) for x in solutions)

    params = {"a": jax.random.normal(jax.random.key(0), (16, 16)) / 4}
    sides = jax.random.normal(jax.random.key(1), (32, 16))
    return trained(loss_fn, params, optax.sgd(0.01), sides)
