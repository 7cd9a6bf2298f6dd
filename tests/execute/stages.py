"""Train steps whose layers are cut into stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import optax

from autoshard.models import gpt_linen, moe, training
from tests.execute.models import STEPS
from tests.laws.steps import ADAMW, BY_NAME, GPT, MOE, functional, gpt, modules


class _Unbalanced:
    """Experts whose loss does not balance them over all tokens."""

    example_inputs = staticmethod(moe.example_inputs)

    @staticmethod
    def loss(params: Any, batch: Any, config: Any) -> jax.Array:
        logits, _ = moe.apply(params, batch["inputs"], config)
        return training.cross_entropy(logits, batch["targets"])


DROPOUT = replace(GPT, layers=4, dropout=0.25, remat=True, tied=True)
# Well below the norm of the gradients, so that all of them depend on each other.
CLIPPED = optax.chain(optax.clip_by_global_norm(0.05), ADAMW)
# Name -> step, mesh, microbatches: an example each in the second, layers that do not divide
# in the third, two stacks in t5.
CASES: dict[str, tuple[Any, dict[str, int], int]] = {
    "gpt": (functional(gpt, replace(GPT, layers=4)), {"pipe": 2, "data": 2, "tensor": 2}, 2),
    "gpt, dropout": (functional(gpt, DROPOUT), {"pipe": 4, "data": 2}, 4),
    "gpt, uneven": (functional(gpt, replace(GPT, layers=3)), {"pipe": 2, "tensor": 4}, 4),
    "gpt, accumulated": (BY_NAME["gpt accumulated"].build, {"pipe": 2, "data": 2, "tensor": 2}, 2),
    "gpt, unrolled": (
        functional(gpt, replace(GPT, layers=4, scan=False)),
        {"pipe": 2, "data": 4},
        2,
    ),
    "gpt, eight stages": (functional(gpt, replace(GPT, layers=8)), {"pipe": 8}, 8),
    "gpt, accumulated and clipped": (
        functional(gpt, replace(GPT, layers=4), CLIPPED, pieces=2),
        {"pipe": 4, "tensor": 2},
        4,
    ),
    "gpt, nnx": (modules(GPT), {"pipe": 2, "data": 2, "tensor": 2}, 2),
    "gpt, linen": (functional(gpt_linen, GPT), {"pipe": 2, "data": 4}, 2),
    "moe": (
        functional(_Unbalanced, replace(MOE, layers=2)),
        {"pipe": 2, "data": 2, "tensor": 2},
        2,
    ),
    "llama": (STEPS["llama"], {"pipe": 2, "data": 4}, 2),
    "vit": (STEPS["vit"], {"pipe": 2, "data": 2, "tensor": 2}, 2),
    "t5": (STEPS["t5"], {"pipe": 2, "data": 2, "tensor": 2}, 2),
}
