"""Experts as GShard has them, which is how Alpa's published runs train theirs.

Tokens are taken in groups. Each group picks two experts a token and has room for an even share of
its choices in each; one-hot matmuls carry tokens to those places and back (Lepikhin et al.,
arXiv:2006.16668, algorithm 1; `top2_gating` and `FlaxPositionWiseMoELayer` in Alpa's
`alpa/model/moe.py`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]

CHOSEN = 2


def shapes(experts: int, embed: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Parameters of one layer's experts."""
    return {
        "router": (embed, experts),
        "up": (experts, embed, hidden),
        "down": (experts, hidden, embed),
    }


def mlp(weight: Params, x: jax.Array, group: int) -> jax.Array:
    """The experts' MLPs on `x` `[batch, seq, embed]`, tokens in groups of `group`."""
    tokens = x.reshape(-1, group, x.shape[-1])
    odds = jax.nn.softmax(jnp.einsum("gsm,me->gse", tokens, weight["router"]))
    combine = _places(odds)
    dispatch = (combine != 0).astype(x.dtype)
    inputs = jnp.einsum("gsec,gsm->egcm", dispatch, tokens)
    hidden = jax.nn.relu(jnp.einsum("egcm,emh->egch", inputs, weight["up"]))
    outputs = jnp.einsum("egch,ehm->gecm", hidden, weight["down"])
    return jnp.einsum("gsec,gecm->gsm", combine, outputs).reshape(x.shape)


def _places(odds: jax.Array) -> jax.Array:
    """Weights of tokens at places of experts `[group, token, expert, place]`."""
    *_, tokens, experts = odds.shape
    room = CHOSEN * tokens // experts
    taken = jnp.zeros((*odds.shape[:-2], 1, experts), jnp.int32)
    found = jnp.zeros((*odds.shape, room), odds.dtype)
    left = odds
    for _ in range(CHOSEN):
        choice = jax.nn.one_hot(jnp.argmax(left, axis=-1), experts, dtype=jnp.int32)
        gate = jnp.einsum("gse,gse->gs", odds, choice.astype(odds.dtype))
        place = jnp.cumsum(choice, axis=-2) - choice + taken
        kept = choice * (place < room)
        slot = jax.nn.one_hot(jnp.sum(place * kept, axis=-1), room, dtype=odds.dtype)
        chosen = gate[..., None] * kept.astype(odds.dtype)
        found = found + jnp.einsum("gse,gsc->gsec", chosen, slot)
        taken = taken + jnp.sum(kept, axis=-2, keepdims=True)
        left = left * (1 - choice).astype(odds.dtype)
    return found
