"""A residual network in plain JAX with group normalisation, which keeps no running statistics.

Blocks follow He et al. 2016, "Identity Mappings in Deep Residual Networks" (normalise, activate,
convolve); normalisation is that of Wu and He 2018, "Group Normalization".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autoshard.models.parts import convolve, group_norm, kernel, norm_params

Params = dict[str, Any]
State = dict[str, Any]
Batch = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        image: height and width of the square input, divisible by `2 ** (len(widths) - 1)`.
        channels: of the input.
        widths: channels of each stage; a stage halves height and width, except the first.
        blocks: residual blocks in each stage.
        groups: of the normalisation; divides every width.
        classes: to tell apart.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    image: int = 32
    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    groups: int = 8
    classes: int = 1000
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} are not all divisible by groups {self.groups}")
        if self.image % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image {self.image} cannot be halved {len(self.widths) - 1} times")

    @property
    def sides(self) -> tuple[int, ...]:
        """Height and width in each stage."""
        return tuple(self.image // 2**i for i in range(len(self.widths)))


CONFIGS = {
    "convnet-tiny": Config(image=16, widths=(8, 16), blocks=1, groups=4, classes=10),
    "convnet-18": Config(image=64),
    "convnet-wide": Config(image=64, widths=(512, 1024, 2048, 4096)),
}


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with the config's constants."""
    return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


def _blocks(config: Config) -> Iterator[tuple[int, int, int, int]]:
    """(channels in, channels out, stride, side of the output) of every block, in order."""
    width_in = config.widths[0]
    for stage, (width, side) in enumerate(zip(config.widths, config.sides, strict=True)):
        for i in range(config.blocks):
            yield width_in, width, 2 if stage > 0 and i == 0 else 1, side
            width_in = width


def init(key: jax.Array, config: Config) -> State:
    """The training state; kernels are `[height, width, in, out]`."""
    keys = iter(jax.random.split(key, 2 + 3 * config.blocks * len(config.widths)))

    params: Params = {"stem": kernel(next(keys), 3, config.channels, config.widths[0])}
    params["blocks"] = []
    for n_in, n_out, _, _ in _blocks(config):
        block = {
            "norm1": norm_params(n_in),
            "conv1": kernel(next(keys), 3, n_in, n_out),
            "norm2": norm_params(n_out),
            "conv2": kernel(next(keys), 3, n_out, n_out),
        }
        if n_in != n_out:
            block["shortcut"] = kernel(next(keys), 1, n_in, n_out)
        params["blocks"].append(block)
    last = config.widths[-1]
    params["final_norm"] = norm_params(last)
    params["head"] = jax.random.normal(next(keys), (last, config.classes)) / math.sqrt(last)
    return {
        "params": params,
        "opt_state": optimizer(config).init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def apply(params: Params, images: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, classes]` for `images` `[batch, height, width, channels]`."""
    dtype = jnp.dtype(config.compute_dtype)
    x = convolve(images.astype(dtype), params["stem"])
    for block, (_, _, stride, _) in zip(params["blocks"], _blocks(config), strict=True):
        y = jax.nn.relu(group_norm(block["norm1"], x, config.groups))
        y = convolve(y, block["conv1"], stride)
        y = jax.nn.relu(group_norm(block["norm2"], y, config.groups))
        y = convolve(y, block["conv2"])
        x = (convolve(x, block["shortcut"], stride) if "shortcut" in block else x) + y
    x = jax.nn.relu(group_norm(params["final_norm"], x, config.groups))
    return jnp.mean(x, axis=(1, 2)) @ params["head"].astype(dtype)


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per image in nats, float32."""
    logits = apply(params, batch["images"], config).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return jnp.mean(losses)


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config)
        updates, opt_state = optimizer(config).update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return new, {"loss": value}

    return train_step


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values: `images` `[batch, height, width, channels]`, `labels`."""
    state_key, image_key, label_key = jax.random.split(jax.random.key(seed), 3)
    shape = (batch_size, config.image, config.image, config.channels)
    batch = {
        "images": jax.random.normal(image_key, shape),
        "labels": jax.random.randint(label_key, (batch_size,), 0, config.classes, jnp.int32),
    }
    return jax.jit(init, static_argnums=1)(state_key, config), batch


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """FLOPs of the convolutions and the last matmul in one train step.

    A convolution takes 2 * side^2 * size^2 * in * out per image, padding counted as if computed;
    weight and input gradient take as much each. The stem needs no input gradient.
    """
    stem = 2 * config.image**2 * 9 * config.channels * config.widths[0]
    body = 2 * config.widths[-1] * config.classes
    for n_in, n_out, _, side in _blocks(config):
        shortcut = n_in * n_out if n_in != n_out else 0
        body += 2 * side**2 * (9 * n_in * n_out + 9 * n_out**2 + shortcut)
    return batch_size * (2 * stem + 3 * body)
