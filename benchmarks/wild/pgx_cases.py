"""Pgx: games as pure functions, many at once under `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


@case("pgx")
def pgx_connect_four() -> Built:
    """REINFORCE by self-play: a network masks illegal moves, `lax.scan` plays, games start anew."""
    import pgx
    from pgx.experimental.wrappers import auto_reset

    env = pgx.make("connect_four")
    init, act = jax.vmap(env.init), jax.vmap(auto_reset(env.step, env.init))

    def logits_of(params: Any, state: Any) -> Any:
        x = state.observation.reshape(len(state.observation), -1).astype(jnp.float32)
        logits = jnp.tanh(x @ params["hidden"]) @ params["out"]
        return jnp.where(state.legal_action_mask, logits, -1e9)

    def loss_fn(params: Any, key: Any, games: Any) -> Any:
        def play(games: Any, key: Any) -> Any:
            now, later = jax.random.split(key)
            logits = logits_of(params, games)
            action = jax.random.categorical(now, logits)
            log = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]
            player = games.current_player
            games = act(games, action, jax.random.split(later, len(action)))
            reward = jnp.take_along_axis(games.rewards, player[:, None], -1)[:, 0]
            return games, log * reward + 1e-3 * log

        games, gains = jax.lax.scan(play, games, jax.random.split(key, 12))
        return -gains.mean(), games

    def step(state: Any, lr: Any) -> Any:
        params, games, key = state
        key, now = jax.random.split(key)
        grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, games), grads = grad(params, now, games)
        params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
        return (params, games, key), {"loss": loss, "grads": grads}

    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {
        "hidden": jax.random.normal(a, (84, 64)) / 9,
        "out": jax.random.normal(b, (64, env.num_actions)) / 8,
    }
    games = jax.jit(init)(jax.random.split(c, 32))
    return Built(step, (params, games, jax.random.key(1)), jnp.float32(0.1))
