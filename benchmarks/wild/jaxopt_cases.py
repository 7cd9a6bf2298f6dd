"""JAXopt: solvers updated once a step, and differentiated through implicitly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained


def _data() -> tuple[Any, Any]:
    x = jax.random.normal(jax.random.key(0), (64, 16))
    return x, jnp.argmax(x[:, :4], -1)


def _solver_steps(solver: Any, first: Any, batch: Any, **options: Any) -> Built:
    """`solver.update` once a step."""

    def step(state: Any, batch: Any) -> Any:
        params, solver_state = solver.update(*state, data=batch, **options)
        return (params, solver_state), {"error": solver_state.error}

    return Built(step, (first, solver.init_state(first, data=batch, **options)), batch)


@case("jaxopt")
def jaxopt_lbfgs() -> Built:
    """Logistic regression by L-BFGS with a zoom line search."""
    import jaxopt

    def loss_fn(params: Any, data: Any) -> Any:
        return jaxopt.objective.l2_multiclass_logreg(params, 0.1, data)

    solver = jaxopt.LBFGS(loss_fn, history_size=3, maxls=8)
    return _solver_steps(solver, jnp.zeros((16, 4)), _data())


@case("jaxopt")
def jaxopt_proximal() -> Built:
    """The lasso by accelerated proximal gradient, its step found by backtracking."""
    import jaxopt

    x, _ = _data()
    targets = x @ jnp.eye(16)[:, :1].ravel() + 0.1
    solver = jaxopt.ProximalGradient(
        jaxopt.objective.least_squares, jaxopt.prox.prox_lasso, maxls=6
    )
    return _solver_steps(solver, jnp.zeros(16), (x, targets), hyperparams_prox=0.1)


@case("jaxopt")
def jaxopt_ridge() -> Built:
    """Hyperparameters trained through the ridge solution: implicit differentiation, CG."""
    import jaxopt
    import optax

    def inner(weights: Any, penalty: Any, x: Any, y: Any) -> Any:
        return jnp.mean((x @ weights - y) ** 2) + jnp.sum(jnp.exp(penalty) * weights**2)

    def loss_fn(params: Any, batch: Any) -> Any:
        x, y = batch
        solver = jaxopt.GradientDescent(inner, maxiter=20, stepsize=0.05, acceleration=False)
        weights = solver.run(jnp.zeros(16), params["penalty"], x[:48], y[:48]).params
        return jnp.mean((x[48:] @ weights - y[48:]) ** 2)

    x, y = _data()
    params = {"penalty": jnp.full(16, -2.0)}
    return trained(loss_fn, params, optax.sgd(0.1), (x, y.astype(jnp.float32)))


@case("jaxopt")
def jaxopt_projections() -> Built:
    """Projections of rows on simplices, boxes and l1 balls: sorts and cumulative sums."""
    from jaxopt import projection

    def step(state: Any, batch: Any) -> Any:
        rows = jax.vmap(projection.projection_simplex)(state)
        boxed = projection.projection_box(rows, (0.0, 0.5))
        balls = jax.vmap(lambda row: projection.projection_l1_ball(row, 0.7))(state + batch)
        return state - 0.1 * (boxed + balls), {"rows": rows, "balls": balls}

    a, b = (jax.random.normal(jax.random.key(i), (32, 16)) for i in range(2))
    return Built(step, a, b)
