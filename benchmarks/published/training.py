"""One training step as frameworks run it: precisions at rest, microbatches, the update.

State is a pytree of arrays: `params` in the dtype that is computed in or in float32, `master`
float32 copies where the framework keeps them, and the optimizer's `moments` of each parameter.

Microbatches run in a `lax.scan`. Frameworks without sharded parameters add up gradients on every
replica by itself and reduce them once at the end; a program for the partitioner says that with a
leading dimension of replicas, over which gradients are summed when the loop has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.published.optimizers import OPTIMIZERS

Params = dict[str, Any]
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Recipe:
    """How one step trains.

    Attributes:
        microbatches: one after the other.
        replicas: that keep gradients to themselves until the last microbatch; 1: gradients are
            reduced in every microbatch.
        microbatch: sequences of one microbatch, all replicas together.
        param_dtype: of parameters at rest.
        master: float32 copies of them beside.
        compute_dtype: of weights in use.
        grad_dtype: of gradients that are added up, over microbatches or replicas.
        moment_dtype: of the optimizer's moments.
        optimizer: of `optimizers.OPTIMIZERS`.
    """

    microbatches: int
    replicas: int
    microbatch: int
    param_dtype: str = "bfloat16"
    master: bool = True
    compute_dtype: str = "bfloat16"
    grad_dtype: str = "float32"
    moment_dtype: str = "float32"
    optimizer: str = "adam"


def at_once(recipe: Recipe) -> Recipe:
    """The same batch without microbatches or replicas: a pipeline is made from such a step."""
    return replace(
        recipe, microbatches=1, replicas=1, microbatch=recipe.microbatch * recipe.microbatches
    )


def state_structs(params: Callable[[str], Params], recipe: Recipe) -> Params:
    """The state's shapes; `params` gives the parameters in a dtype."""
    at_rest = params(recipe.param_dtype)
    moments = [
        {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(recipe.moment_dtype))
            for name, shape in OPTIMIZERS[recipe.optimizer].moments(leaf.shape).items()
        }
        for leaf in jax.tree.leaves(at_rest)
    ]
    state: Params = {"params": at_rest, "moments": moments}
    return state | ({"master": params("float32")} if recipe.master else {})


def batch_structs(recipe: Recipe, seq: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Tokens and targets."""
    shape: tuple[int, ...] = (recipe.microbatch, seq)
    if recipe.replicas > 1:
        shape = (recipe.replicas, recipe.microbatch // recipe.replicas, seq)
    if recipe.microbatches > 1:
        shape = (recipe.microbatches, *shape)
    one = jax.ShapeDtypeStruct(shape, jnp.dtype("int32"))
    return one, one


def make_step(loss: Loss, recipe: Recipe) -> Callable[..., tuple[Params, jax.Array]]:
    """`step(state, tokens, targets)` for one device."""

    def grads_of(params: Params, tokens: jax.Array, targets: jax.Array) -> tuple[Any, Params]:
        value_and_grad = jax.value_and_grad(loss)
        if recipe.replicas > 1:
            value_and_grad = jax.vmap(value_and_grad, in_axes=(None, 0, 0))
        return value_and_grad(params, tokens, targets)

    def step(state: Params, tokens: jax.Array, targets: jax.Array) -> tuple[Params, jax.Array]:
        params = jax.tree.map(lambda p: p.astype(recipe.compute_dtype), state["params"])
        if recipe.microbatches == 1:
            value, grads = grads_of(params, tokens, targets)
        else:
            value, grads = _accumulate(grads_of, params, tokens, targets, recipe)
        if recipe.replicas > 1:
            grads = jax.tree.map(lambda g: _sum_replicas(g.astype(recipe.grad_dtype)), grads)
        return _updated(state, grads, recipe), jnp.mean(value)

    return step


def _accumulate(
    grads_of: Callable[..., tuple[Any, Params]],
    params: Params,
    tokens: jax.Array,
    targets: jax.Array,
    recipe: Recipe,
) -> tuple[jax.Array, Params]:
    lead = (recipe.replicas,) if recipe.replicas > 1 else ()
    zeros = jax.tree.map(lambda p: jnp.zeros((*lead, *p.shape), recipe.grad_dtype), params)

    def body(total: Params, batch: tuple[jax.Array, jax.Array]) -> tuple[Params, jax.Array]:
        value, grads = grads_of(params, *batch)
        return jax.tree.map(lambda a, g: a + g.astype(a.dtype), total, grads), value

    total, values = jax.lax.scan(body, zeros, (tokens, targets))
    return jnp.mean(values), total


def _sum_replicas(grad: jax.Array) -> jax.Array:
    """Over the leading dimension; as a product, whose partial sums may be scattered."""
    return jnp.einsum("r,r...->...", jnp.ones(grad.shape[0], grad.dtype), grad)


def _updated(state: Params, grads: Params, recipe: Recipe) -> Params:
    """The new state."""
    weights, tree = jax.tree.flatten(state["master"] if recipe.master else state["params"])
    found, moments = [], []
    for weight, grad, kept in zip(weights, jax.tree.leaves(grads), state["moments"], strict=True):
        wide = {name: m.astype(jnp.float32) for name, m in kept.items()}
        new, now = OPTIMIZERS[recipe.optimizer].update(
            weight.astype(jnp.float32), grad.astype(jnp.float32), **wide
        )
        found.append(new)
        moments.append({name: m.astype(recipe.moment_dtype) for name, m in now.items()})
    new = jax.tree.unflatten(tree, found)
    out = {
        "params": jax.tree.map(lambda p: p.astype(recipe.param_dtype), new),
        "moments": moments,
    }
    return out | ({"master": new} if recipe.master else {})
