"""RLax: reinforcement-learning losses, one transition or trajectory each, under `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained

_ACTIONS = 4


def _network(outputs: int) -> tuple[Any, Any]:
    """A Haiku perceptron and its first parameters."""
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, outputs])(x)))
    return net, net.init(jax.random.PRNGKey(0), jnp.zeros((1, 8)))


def _transitions(*shape: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(1), 4)
    return {
        "before": jax.random.normal(keys[0], (*shape, 8)),
        "action": jax.random.randint(keys[1], shape, 0, _ACTIONS),
        "reward": jax.random.normal(keys[2], shape),
        "discount": 0.9 * (jax.random.uniform(keys[3], shape) > 0.1),
        "after": jax.random.normal(keys[0], (*shape, 8)) * 0.9,
    }


@case("rlax")
def rlax_double_q() -> Built:
    """`double_q_learning` against a target network that `periodic_update` copies."""
    import optax
    import rlax

    net, params = _network(_ACTIONS)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2))

    def step(state: Any, batch: Any) -> Any:
        params, target, opt_state, count = state

        def loss_fn(params: Any) -> Any:
            errors = jax.vmap(rlax.double_q_learning)(
                net.apply(params, batch["before"]),
                batch["action"],
                batch["reward"],
                batch["discount"],
                net.apply(target, batch["after"]),
                net.apply(params, batch["after"]),
            )
            return jnp.mean(rlax.huber_loss(errors))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        target = rlax.periodic_update(params, target, count, 2)
        return (params, target, opt_state, count + 1), {"loss": loss, "grads": grads}

    state = (params, params, optimizer.init(params), jnp.int32(0))
    return Built(step, state, _transitions(32))


@case("rlax")
def rlax_categorical() -> Built:
    """`categorical_q_learning`: distributions over returns, projected on their atoms."""
    import optax
    import rlax

    atoms = jnp.linspace(-2.0, 2.0, 16)
    net, params = _network(_ACTIONS * 16)

    def loss_fn(params: Any, batch: Any) -> Any:
        before = net.apply(params, batch["before"]).reshape(-1, _ACTIONS, 16)
        after = net.apply(params, batch["after"]).reshape(-1, _ACTIONS, 16)
        losses = jax.vmap(rlax.categorical_q_learning, in_axes=(None, 0, 0, 0, 0, None, 0))(
            atoms, before, batch["action"], batch["reward"], batch["discount"], atoms, after
        )
        return jnp.mean(losses)

    return trained(loss_fn, params, optax.sgd(1e-2), _transitions(32))


@case("rlax")
def rlax_vtrace() -> Built:
    """IMPALA's loss: V-trace over trajectories, policy gradient, entropy."""
    import optax
    import rlax

    net, params = _network(_ACTIONS + 1)

    def trajectory(logits: Any, values: Any, behaviour: Any, batch: Any) -> Any:
        rhos = rlax.categorical_importance_sampling_ratios(
            logits[:-1], behaviour, batch["action"][:-1]
        )
        returns = rlax.vtrace_td_error_and_advantage(
            values[:-1], values[1:], batch["reward"][:-1], batch["discount"][:-1], rhos, 0.95
        )
        weights = jnp.ones_like(rhos)
        policy = rlax.policy_gradient_loss(
            logits[:-1], batch["action"][:-1], returns.pg_advantage, weights
        )
        entropy = rlax.entropy_loss(logits[:-1], weights)
        return policy + 0.5 * jnp.mean(returns.errors**2) + 0.01 * entropy

    def loss_fn(params: Any, batch: Any) -> Any:
        out = net.apply(params, batch["before"])
        logits, values = out[..., :-1], out[..., -1]
        behaviour = jnp.tanh(batch["after"][:, :-1, :_ACTIONS])
        return jnp.mean(jax.vmap(trajectory)(logits, values, behaviour, batch))

    return trained(loss_fn, params, optax.sgd(1e-2), _transitions(16, 12))


@case("rlax")
def rlax_quantile() -> Built:
    """`quantile_q_learning`: quantile regression with Huber loss on pairs of quantiles."""
    import optax
    import rlax

    quantiles = (jnp.arange(8) + 0.5) / 8
    net, params = _network(_ACTIONS * 8)

    def one(before: Any, after: Any, batch: Any) -> Any:
        return rlax.quantile_q_learning(
            before,
            quantiles,
            batch["action"],
            batch["reward"],
            batch["discount"],
            after,
            after,
            1.0,
        )

    def loss_fn(params: Any, batch: Any) -> Any:
        before = net.apply(params, batch["before"]).reshape(-1, 8, _ACTIONS)
        after = net.apply(params, batch["after"]).reshape(-1, 8, _ACTIONS)
        return jnp.mean(jax.vmap(one)(before, after, batch))

    return trained(loss_fn, params, optax.sgd(1e-2), _transitions(32))
