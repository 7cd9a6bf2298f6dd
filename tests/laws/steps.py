"""Train steps for the laws: tiny, complete, and with their gradients in sight.

Every step returns its gradients beside the loss. Where a true gradient is zero an optimizer that
normalises turns round-off into a full step; the gradient itself shows that it was round-off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from autoshard.models import convnet, gpt, gpt_linen, gpt_nnx, llama, mlp, moe

GPT = gpt.Config(vocab=32, seq=8, layers=2, heads=4, embed=16, mlp_ratio=2, compute_dtype="float32")
MLP = mlp.Config(sizes=(16, 32, 16, 8), compute_dtype="float32")
CONVNET = convnet.Config(
    image=8, widths=(8, 16), blocks=1, groups=4, classes=8, compute_dtype="float32"
)
LLAMA = llama.Config(
    vocab=32, seq=8, layers=2, embed=16, heads=4, kv_heads=2, hidden=32, remat=False,
    compute_dtype="float32",
)  # fmt: skip
MOE = moe.Config(
    vocab=32, seq=8, layers=1, embed=16, heads=4, kv_heads=2, hidden=32, remat=False,
    compute_dtype="float32", experts=4, capacity=2.0,
)  # fmt: skip
BATCH = 8

# The update magnifies what a gradient is off by, by its size over epsilon. Gradients are up to 0.1
# large here; a tenth of that keeps their last digits out of the fifth of a parameter.
ADAMW = optax.adamw(1e-3, eps=1e-2, weight_decay=1e-2)
SGD = optax.sgd(1e-2, momentum=0.9)
# Factors every matrix, so that rows and columns of statistics are sharded too.
ADAFACTOR = optax.adafactor(1e-3, min_dim_size_to_factor=4, eps=1e-5)

Build = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


@dataclass(frozen=True)
class Case:
    """A step and its arguments, by name; `build` makes both."""

    name: str
    build: Build
    bfloat16: bool = False

    def __str__(self) -> str:
        return self.name


def accumulated(grad: Callable[..., Any], pieces: int) -> Callable[..., Any]:
    """The mean of `grad` over pieces of the batch, one after the other in a `lax.scan`."""

    def run(params: Any, batch: Any, *rest: Any) -> Any:
        parts = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, grad(params, part, *rest)), None

        zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad, params, batch, *rest))
        total, _ = jax.lax.scan(add, zero, parts)
        return jax.tree.map(lambda x: x / pieces, total)

    return run


def functional(module: Any, config: Any, tx: Any = ADAMW, pieces: int = 1) -> Build:
    """A step on `{"params", "opt_state"}`; with dropout the state carries key and step too."""
    dropout = getattr(config, "dropout", 0) > 0

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        grad = jax.value_and_grad(lambda p, b, *rest: module.loss(p, b, config, *rest))
        if pieces > 1:
            grad = accumulated(grad, pieces)

        def train_step(state: Any, batch: Any) -> Any:
            keys = (jax.random.fold_in(state["key"], state["step"]),) if dropout else ()
            loss, grads = grad(state["params"], batch, *keys)
            updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
            params = optax.apply_updates(state["params"], updates)
            new = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
            return state | new, {"loss": loss, "grads": grads}

        state, batch = module.example_inputs(config, BATCH)
        return train_step, (state | {"opt_state": tx.init(state["params"])}, batch)

    return build


def modules(config: gpt.Config, tx: Any = ADAMW) -> Build:
    """A step that changes an NNX model and its optimizer."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        def train_step(model: Any, optimizer: Any, batch: Any) -> Any:
            loss, grads = nnx.value_and_grad(gpt_nnx.loss)(model, batch)
            optimizer.update(model, grads)
            return {"loss": loss, "grads": nnx.to_pure_dict(grads)}

        model, _, batch = gpt_nnx.example_inputs(config, BATCH)
        return train_step, (model, nnx.Optimizer(model, tx, wrt=nnx.Param), batch)

    return build


UNROLLED = replace(GPT, scan=False)
BFLOAT16 = {"compute_dtype": "bfloat16"}

MODELS = (
    Case("mlp", functional(mlp, MLP)),
    Case("convnet", functional(convnet, CONVNET)),
    Case("gpt", functional(gpt, GPT)),
    Case("gpt unrolled", functional(gpt, UNROLLED)),
    Case("gpt linen", functional(gpt_linen, GPT)),
    Case("gpt nnx", modules(GPT)),
    Case("gpt nnx unrolled", modules(UNROLLED)),
)
VARIANTS = (
    Case("mlp adafactor", functional(mlp, MLP, ADAFACTOR)),
    Case("mlp sgd, accumulated", functional(mlp, MLP, SGD, pieces=2)),
    Case("gpt sgd", functional(gpt, GPT, SGD)),
    Case("gpt adafactor", functional(gpt, GPT, ADAFACTOR)),
    Case("gpt accumulated", functional(gpt, GPT, pieces=2)),
    Case("gpt remat", functional(gpt, replace(GPT, remat=True))),
    Case("gpt unrolled, remat", functional(gpt, replace(UNROLLED, remat=True))),
    Case("gpt dropout", functional(gpt, replace(GPT, dropout=0.25))),
    Case("gpt unrolled, dropout", functional(gpt, replace(UNROLLED, dropout=0.25))),
    Case("gpt tied", functional(gpt, replace(GPT, tied=True))),
    Case("gpt linen unrolled, remat", functional(gpt_linen, replace(UNROLLED, remat=True))),
    Case("gpt nnx remat", modules(replace(GPT, remat=True))),
    Case("gpt nnx sgd", modules(GPT, SGD)),
    Case("convnet sgd", functional(convnet, CONVNET, SGD)),
    Case("mlp bfloat16", functional(mlp, replace(MLP, **BFLOAT16), SGD), bfloat16=True),
    Case("gpt bfloat16", functional(gpt, replace(GPT, **BFLOAT16), SGD), bfloat16=True),
)
FAMILIES = (
    Case("llama", functional(llama, LLAMA)),
    Case("moe", functional(moe, MOE)),
)
BY_NAME = {case.name: case for case in (*MODELS, *VARIANTS, *FAMILIES)}
