"""The U-Net of a diffusion model in plain JAX: predicts the noise that was added to an image.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models"; `unet-base` is its network for
CIFAR-10 (35.7 million parameters). Times and noise are drawn within the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autoshard.models import parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        image, channels: side of the square input and its channels.
        width: channels at full resolution.
        multiples: of `width`, at each resolution; each is half the one before.
        blocks: residual blocks at each resolution.
        attention: sides at which blocks are followed by self-attention over all positions.
        groups: of the normalisation; divides every width.
        times: steps of the diffusion.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    image: int = 32
    channels: int = 3
    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    groups: int = 32
    times: int = 1000
    compute_dtype: str = "bfloat16"
    learning_rate: float = 2e-4
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.image % 2 ** (len(self.multiples) - 1):
            raise ValueError(f"image {self.image} cannot be halved {len(self.multiples) - 1} times")
        if self.width % self.groups:
            raise ValueError(f"width {self.width} is not divisible by groups {self.groups}")


CONFIGS = {
    "unet-tiny": Config(image=8, width=16, multiples=(1, 2), blocks=1, attention=(4,), groups=4),
    "unet-base": Config(),
    "unet-wide": Config(image=64, width=512, multiples=(1, 2, 3, 4), attention=(16, 8)),
}


@dataclass(frozen=True)
class Block:
    """One step through the network.

    Attributes:
        kind: "residual", "down" or "up" (which change the resolution).
        n_in: channels in, those of the skip connection included.
        n_out: channels out.
        side: of the output.
        attention: whether attention follows.
        push: keep the output for a skip connection.
        pop: append the newest output kept to the input.
    """

    kind: str
    n_in: int
    n_out: int
    side: int
    attention: bool = False
    push: bool = False
    pop: bool = False


def plan(config: Config) -> Iterator[Block]:
    """All blocks between the first convolution and the last, in order."""
    kept, n, side = [config.width], config.width, config.image
    levels = list(enumerate(config.multiples))
    for level, multiple in levels:
        for _ in range(config.blocks):
            out = config.width * multiple
            yield Block("residual", n, out, side, side in config.attention, push=True)
            n = out
            kept.append(n)
        if level < len(levels) - 1:
            side //= 2
            yield Block("down", n, n, side, push=True)
            kept.append(n)
    yield Block("residual", n, n, side, attention=True)
    yield Block("residual", n, n, side)
    for level, multiple in reversed(levels):
        for _ in range(config.blocks + 1):
            out = config.width * multiple
            yield Block("residual", n + kept.pop(), out, side, side in config.attention, pop=True)
            n = out
        if level > 0:
            side *= 2
            yield Block("up", n, n, side)


def _conv(key: jax.Array, size: int, n_in: int, n_out: int) -> Params:
    return {
        "kernel": parts.weight(key, (size, size, n_in, n_out), size * size * n_in),
        "bias": jnp.zeros(n_out),
    }


def _init_block(key: jax.Array, block: Block, config: Config) -> Params:
    keys = jax.random.split(key, 8)
    n_in, n_out = block.n_in, block.n_out
    if block.kind != "residual":
        return {"conv": _conv(keys[0], 3, n_in, n_out)}
    params = {
        "norm1": parts.norm_params(n_in),
        "conv1": _conv(keys[0], 3, n_in, n_out),
        "time": parts.dense_params(keys[1], 4 * config.width, n_out),
        "norm2": parts.norm_params(n_out),
        "conv2": _conv(keys[2], 3, n_out, n_out),
    }
    if n_in != n_out:
        params["shortcut"] = parts.dense_params(keys[3], n_in, n_out)
    if block.attention:
        names = ("query", "key", "value", "out")
        params["attention"] = {
            "norm": parts.norm_params(n_out),
            **{
                name: parts.dense_params(k, n_out, n_out)
                for name, k in zip(names, keys[4:], strict=True)
            },
        }
    return params


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step` and `key`."""
    blocks = list(plan(config))
    stem_key, time_key, head_key, blocks_key, state_key = jax.random.split(key, 5)
    first, second = jax.random.split(time_key)
    w = config.width
    params = {
        "time": [parts.dense_params(first, w, 4 * w), parts.dense_params(second, 4 * w, 4 * w)],
        "stem": _conv(stem_key, 3, config.channels, w),
        "blocks": [
            _init_block(k, block, config)
            for k, block in zip(jax.random.split(blocks_key, len(blocks)), blocks, strict=True)
        ],
        "final_norm": parts.norm_params(w * config.multiples[0]),
        "head": _conv(head_key, 3, w * config.multiples[0], config.channels),
    }
    return training.new_state(params, config) | {"key": state_key}


def convolve(params: Params, x: jax.Array, stride: int = 1) -> jax.Array:
    """`parts.convolve` and a bias."""
    return parts.convolve(x, params["kernel"], stride) + params["bias"].astype(x.dtype)


def attention(params: Params, x: jax.Array, groups: int) -> jax.Array:
    """Self-attention with one head over all positions of `x`, added to it."""
    batch, height, width, channels = x.shape
    normal = parts.group_norm(params["norm"], x, groups).reshape(batch, height * width, channels)
    query, key, value = (
        parts.dense(params[name], normal)[:, :, None, :] for name in ("query", "key", "value")
    )
    mixed = parts.attend(query, key, value)[:, :, 0, :]
    return x + parts.dense(params["out"], mixed).reshape(x.shape)


def residual(params: Params, x: jax.Array, time: jax.Array, groups: int) -> jax.Array:
    """Two convolutions around the time embedding, added to `x`; attention where there is any."""
    y = convolve(params["conv1"], jax.nn.silu(parts.group_norm(params["norm1"], x, groups)))
    y = y + parts.dense(params["time"], jax.nn.silu(time))[:, None, None, :]
    y = convolve(params["conv2"], jax.nn.silu(parts.group_norm(params["norm2"], y, groups)))
    x = y + (parts.dense(params["shortcut"], x) if "shortcut" in params else x)
    return attention(params["attention"], x, groups) if "attention" in params else x


def double(x: jax.Array) -> jax.Array:
    """Every pixel becomes two by two."""
    batch, height, width, channels = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return spread.reshape(batch, 2 * height, 2 * width, channels)


def embed_times(times: jax.Array, width: int) -> jax.Array:
    """Sines and cosines of `times` `[batch]`: `[batch, width]`, float32."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angles = times.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def apply(params: Params, images: jax.Array, times: jax.Array, config: Config) -> jax.Array:
    """The noise believed to be in `images` after `times` `[batch]` steps of diffusion."""
    dtype = jnp.dtype(config.compute_dtype)
    time = embed_times(times, config.width).astype(dtype)
    time = parts.dense(params["time"][1], jax.nn.silu(parts.dense(params["time"][0], time)))
    x = convolve(params["stem"], images.astype(dtype))
    kept = [x]
    for block, block_params in zip(plan(config), params["blocks"], strict=True):
        if block.pop:
            x = jnp.concatenate([x, kept.pop()], axis=-1)
        if block.kind == "residual":
            x = residual(block_params, x, time, config.groups)
        elif block.kind == "down":
            x = convolve(block_params["conv"], x, stride=2)
        else:
            x = convolve(block_params["conv"], double(x))
        if block.push:
            kept.append(x)
    x = jax.nn.silu(parts.group_norm(params["final_norm"], x, config.groups))
    return convolve(params["head"], x)


def loss(params: Params, batch: Batch, config: Config, key: jax.Array) -> jax.Array:
    """Mean squared error of the predicted noise, float32."""
    images = batch["images"]
    time_key, noise_key = jax.random.split(key)
    times = jax.random.randint(time_key, images.shape[:1], 0, config.times)
    noise = jax.random.normal(noise_key, images.shape)
    betas = jnp.linspace(1e-4, 0.02, config.times)
    left = jnp.exp(jnp.cumsum(jnp.log1p(-betas)))[times][:, None, None, None]
    noisy = jnp.sqrt(left) * images + jnp.sqrt(1 - left) * noise
    error = apply(params, noisy, times, config).astype(jnp.float32) - noise
    return jnp.mean(jnp.square(error))


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(state["key"], state["step"])
        value, grads = jax.value_and_grad(loss)(state["params"], batch, config, key)
        return training.update(state, grads, config), {"loss": value}

    return train_step


def example_inputs(config: Config, batch_size: int, seed: int = 0) -> tuple[State, Batch]:
    """A state and a batch with values: `images` `[batch, height, width, channels]`."""
    state_key, image_key = jax.random.split(jax.random.key(seed))
    shape = (batch_size, config.image, config.image, config.channels)
    state = jax.jit(init, static_argnums=1)(state_key, config)
    return state, {"images": jax.random.normal(image_key, shape)}


def abstract_inputs(config: Config, batch_size: int) -> tuple[State, Batch]:
    """`example_inputs` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda: example_inputs(config, batch_size))


def flops(config: Config, batch_size: int) -> int:
    """FLOPs of convolutions and matmuls in one train step; see `convnet.flops`."""
    w = config.width
    body = 2 * (4 * w) ** 2 + 2 * config.image**2 * 9 * w * config.multiples[0] * config.channels
    for block in plan(config):
        n_in, n_out, area = block.n_in, block.n_out, block.side**2
        body += 2 * area * 9 * n_in * n_out
        if block.kind == "residual":
            body += 2 * area * 9 * n_out**2 + 2 * 4 * w * n_out
            body += 2 * area * n_in * n_out if n_in != n_out else 0
            body += 4 * area * area * n_out + 8 * area * n_out**2 if block.attention else 0
    # Neither times nor images need gradients.
    inputs = 2 * w * 4 * w + 2 * config.image**2 * 9 * config.channels * w
    return batch_size * (3 * body + 2 * inputs)
