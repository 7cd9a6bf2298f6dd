"""Brax: agents' losses and networks, and rigid-body physics for many environments at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained_with_key

_SEEN, _ACTIONS = 12, 4


def _transitions(*shape: int) -> Any:
    from brax.training.types import Transition

    keys = jax.random.split(jax.random.key(1), 5)
    return Transition(
        observation=jax.random.normal(keys[0], (*shape, _SEEN)),
        action=jnp.tanh(jax.random.normal(keys[1], (*shape, _ACTIONS))),
        reward=jax.random.normal(keys[2], shape),
        discount=(jax.random.uniform(keys[3], shape) > 0.1).astype(jnp.float32),
        next_observation=jax.random.normal(keys[4], (*shape, _SEEN)),
        extras={
            "state_extras": {"truncation": jnp.zeros(shape)},
            "policy_extras": {
                "raw_action": jax.random.normal(keys[1], (*shape, _ACTIONS)),
                "log_prob": -4.0 + jax.random.normal(keys[2], shape),
                "distribution_params": jax.random.normal(keys[3], (*shape, 2 * _ACTIONS)),
            },
        },
    )


@case("brax")
def brax_ppo() -> Built:
    """`compute_ppo_loss`: advantages in a reversed scan, clipped ratios, value network."""
    import optax
    from brax.training.agents.ppo import losses, networks

    net = networks.make_ppo_networks(
        _SEEN,
        _ACTIONS,
        policy_hidden_layer_sizes=(32, 32),
        value_hidden_layer_sizes=(64, 64),
    )
    a, b = jax.random.split(jax.random.PRNGKey(0))
    params = losses.PPONetworkParams(
        policy=net.policy_network.init(a), value=net.value_network.init(b)
    )

    def loss_fn(params: Any, key: Any, batch: Any) -> Any:
        return losses.compute_ppo_loss(params, None, batch, key, net, entropy_cost=1e-2)[0]

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2))
    return trained_with_key(loss_fn, params, optimizer, _transitions(16, 10))


@case("brax")
def brax_sac() -> Built:
    """Soft actor-critic's three losses at once, with twin critics."""
    import optax
    from brax.training.agents.sac import losses, networks

    net = networks.make_sac_networks(_SEEN, _ACTIONS, hidden_layer_sizes=(32, 32))
    alpha_loss, critic_loss, actor_loss = losses.make_losses(net, 1.0, 0.95, _ACTIONS)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    target = net.q_network.init(keys[2])
    params = {
        "log_alpha": jnp.float32(0.0),
        "policy": net.policy_network.init(keys[0]),
        "q": net.q_network.init(keys[1]),
    }

    def loss_fn(params: Any, key: Any, batch: Any) -> Any:
        stop = jax.lax.stop_gradient(params)
        alpha = jnp.exp(stop["log_alpha"])
        a, b, c = jax.random.split(key, 3)
        return (
            alpha_loss(params["log_alpha"], stop["policy"], None, batch, a)
            + critic_loss(params["q"], stop["policy"], None, target, alpha, batch, b)
            + actor_loss(params["policy"], None, stop["q"], alpha, batch, c)
        )

    return trained_with_key(loss_fn, params, optax.sgd(1e-2), _transitions(64))


@case("brax")
def brax_physics() -> Built:
    """The inverted pendulum: 16 environments stepped by the positional pipeline."""
    from brax import envs

    env = envs.get_environment("inverted_pendulum", backend="positional")
    first = jax.vmap(env.reset)(jax.random.split(jax.random.PRNGKey(0), 16))

    def step(state: Any, batch: Any) -> Any:
        state = jax.vmap(env.step)(state, batch)
        return state, {"obs": state.obs, "reward": state.reward}

    return Built(step, first, jax.random.uniform(jax.random.key(1), (16, 1)) - 0.5)
