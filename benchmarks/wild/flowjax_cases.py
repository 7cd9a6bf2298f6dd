"""FlowJAX: normalizing flows as Equinox modules whose parameters are unwrapped in the loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.equinox_cases import built


def _likelihood(flow: Any, batch: Any) -> Any:
    import paramax

    return -paramax.unwrap(flow).log_prob(batch).mean()


def _points(width: int) -> Any:
    x = jax.random.normal(jax.random.key(1), (32, width))
    return x.at[:, 1:].add(x[:, :-1] ** 2)


@case("flowjax")
def flowjax_autoregressive() -> Built:
    """`masked_autoregressive_flow` with rational-quadratic splines."""
    import optax
    from flowjax import bijections, distributions, flows

    flow = flows.masked_autoregressive_flow(
        jax.random.key(0),
        base_dist=distributions.Normal(jnp.zeros(4)),
        transformer=bijections.RationalQuadraticSpline(knots=4, interval=4),
        flow_layers=2,
        nn_width=32,
    )
    return built(flow, _likelihood, optax.sgd(1e-2), _points(4))


@case("flowjax")
def flowjax_coupling() -> Built:
    """`coupling_flow`, affine: layers stacked and scanned over."""
    import optax
    from flowjax import distributions, flows

    flow = flows.coupling_flow(
        jax.random.key(0),
        base_dist=distributions.Normal(jnp.zeros(8)),
        flow_layers=4,
        nn_width=32,
    )
    return built(flow, _likelihood, optax.sgd(1e-2), _points(8))
