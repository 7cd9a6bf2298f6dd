"""JAX MD: molecular dynamics with differentiable potentials.

Not among the extra `wild-all`, for what comes with it: `pip install --no-deps jax-md einops
frozendict` is enough.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


@case("jax-md")
def jax_md_langevin() -> Built:
    """Soft spheres in a periodic box under a Nose-Hoover thermostat, ten moves a step."""
    from jax_md import energy, simulate, space

    box = 6.0
    displacement, shift = space.periodic(box)
    potential = energy.soft_sphere_pair(displacement)
    init, apply = simulate.nvt_nose_hoover(potential, shift, dt=1e-3, kT=0.1)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(4.0)] * 3), -1).reshape(-1, 3) * box / 4
    places = grid + 0.1 * jax.random.normal(jax.random.key(0), grid.shape)

    def step(state: Any, batch: Any) -> Any:
        def body(i: Any, state: Any) -> Any:
            return apply(state, kT=batch)

        state = jax.lax.fori_loop(0, 10, body, state)
        return state, {"energy": potential(state.position)}

    return Built(step, init(jax.random.key(1), places), jnp.float32(0.1))
