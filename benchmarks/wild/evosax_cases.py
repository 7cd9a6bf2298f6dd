"""evosax: evolution strategies; populations evaluated under `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _evolved(strategy: Any, first: Any, params: Any) -> Built:
    """Ask, evaluate a small network's error on the batch, tell."""

    def fitness(member: Any, batch: Any) -> Any:
        h = jnp.tanh(batch[0] @ member["w"] + member["b"])
        return jnp.mean((h @ member["v"] - batch[1]) ** 2)

    def step(state: Any, batch: Any) -> Any:
        search, key = state
        key, a, b = jax.random.split(key, 3)
        population, search = strategy.ask(a, search, params)
        scores = jax.vmap(fitness, in_axes=(0, None))(population, batch)
        search, _ = strategy.tell(b, population, scores, search, params)
        return (search, key), {"scores": scores}

    x = jax.random.normal(jax.random.key(0), (32, 8))
    return Built(step, (first, jax.random.key(1)), (x, jnp.sin(x[:, 0])))


def _solution() -> dict[str, Any]:
    return {"w": jnp.ones((8, 4)) / 8, "b": jnp.zeros(4), "v": jnp.ones(4)}


@case("evosax")
def evosax_openai() -> Built:
    """OpenAI's strategy: antithetic samples, centred ranks, an Optax update."""
    import optax
    from evosax import algorithms

    strategy = algorithms.Open_ES(64, _solution(), optimizer=optax.sgd(0.1))
    params = strategy.default_params
    first = strategy.init(jax.random.key(2), _solution(), params)
    return _evolved(strategy, first, params)


@case("evosax")
def evosax_genetic() -> Built:
    """A genetic algorithm: elites kept, crossed over and mutated."""
    from evosax import algorithms

    strategy = algorithms.SimpleGA(64, _solution())
    params = strategy.default_params
    population = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (64, *leaf.shape)), _solution())
    first = strategy.init(jax.random.key(2), population, jnp.arange(64.0), params)
    return _evolved(strategy, first, params)
