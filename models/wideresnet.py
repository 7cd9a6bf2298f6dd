"""A wide residual network in plain JAX, with batch normalisation and its running statistics.

Zagoruyko and Komodakis 2016, "Wide Residual Networks": `wrn-28-10` has depth 28 (three stages of
four blocks with two convolutions each, and four more) and ten times the width.
"""

from __future__ import annotations

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
        image, channels: side of the square input, divisible by 4, and its channels.
        width: factor on the widths 16, 32 and 64 of the three stages.
        blocks: residual blocks in each stage.
        classes: to tell apart.
        momentum: of the running statistics.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    image: int = 32
    channels: int = 3
    width: int = 10
    blocks: int = 4
    classes: int = 10
    momentum: float = 0.9
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.image % 4:
            raise ValueError(f"image {self.image} is not divisible by 4: it is halved twice")

    @property
    def last(self) -> int:
        """Channels of the last stage."""
        return 64 * self.width


CONFIGS = {
    "wrn-tiny": Config(image=8, width=1, blocks=1),
    "wrn-28-10": Config(),
    "wrn-28-32": Config(image=64, width=32, classes=1000),
}


def _blocks(config: Config) -> Iterator[tuple[int, int, int, int]]:
    """(channels in, channels out, stride, side of the output) of every block, in order."""
    width_in, side = 16, config.image
    for stage in range(3):
        for i in range(config.blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            side //= stride
            yield width_in, 16 * 2**stage * config.width, stride, side
            width_in = 16 * 2**stage * config.width


def _norms(config: Config) -> dict[str, int]:
    """Channels of every normalisation by name."""
    found = {}
    for i, (n_in, n_out, _, _) in enumerate(_blocks(config)):
        found[f"block{i}_1"], found[f"block{i}_2"] = n_in, n_out
    return found | {"final": config.last}


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`, and `stats` of the normalisations."""
    keys = iter(jax.random.split(key, 2 + 9 * config.blocks))
    params: Params = {"stem": parts.kernel(next(keys), 3, config.channels, 16), "blocks": []}
    for n_in, n_out, _, _ in _blocks(config):
        block = {
            "conv1": parts.kernel(next(keys), 3, n_in, n_out),
            "conv2": parts.kernel(next(keys), 3, n_out, n_out),
        }
        if n_in != n_out:
            block["shortcut"] = parts.kernel(next(keys), 1, n_in, n_out)
        params["blocks"].append(block)
    params["norms"] = {name: parts.norm_params(size) for name, size in _norms(config).items()}
    params["head"] = parts.dense_params(next(keys), config.last, config.classes)
    stats = {
        name: {"mean": jnp.zeros(size), "variance": jnp.ones(size)}
        for name, size in _norms(config).items()
    }
    return training.new_state(params, config) | {"stats": stats}


def batch_norm(params: Params, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalise every channel over batch and space, in float32; also the statistics found."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=(0, 1, 2))
    variance = jnp.mean(jnp.square(wide - mean), axis=(0, 1, 2))
    normal = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
    scaled = (normal * params["scale"] + params["bias"]).astype(x.dtype)
    return scaled, {"mean": mean, "variance": variance}


def apply(params: Params, images: jax.Array, config: Config) -> tuple[jax.Array, Params]:
    """Logits `[batch, classes]` for `images`, and the statistics of this batch by name."""
    stats = {}

    def activate(name: str, x: jax.Array) -> jax.Array:
        x, stats[name] = batch_norm(params["norms"][name], x)
        return jax.nn.relu(x)

    x = parts.convolve(images.astype(config.compute_dtype), params["stem"])
    for i, (block, (_, _, stride, _)) in enumerate(
        zip(params["blocks"], _blocks(config), strict=True)
    ):
        y = activate(f"block{i}_1", x)
        shortcut = parts.convolve(y, block["shortcut"], stride) if "shortcut" in block else x
        y = activate(f"block{i}_2", parts.convolve(y, block["conv1"], stride))
        x = shortcut + parts.convolve(y, block["conv2"])
    x = jnp.mean(activate("final", x), axis=(1, 2))
    return parts.dense(params["head"], x), stats


def loss(params: Params, batch: Batch, config: Config) -> tuple[jax.Array, Params]:
    """Mean cross-entropy per image in nats, float32, and the statistics of this batch."""
    logits, stats = apply(params, batch["images"], config)
    return training.cross_entropy(logits, batch["labels"]), stats


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    keep = config.momentum

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, found), grads = grad(state["params"], batch, config)
        stats = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state["stats"], found)
        return training.update(state, grads, config) | {"stats": stats}, {"loss": value}

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
    """FLOPs of the convolutions and the last matmul in one train step, as in `convnet.flops`."""
    stem = 2 * config.image**2 * 9 * config.channels * 16
    body = 2 * config.last * config.classes
    for n_in, n_out, _, side in _blocks(config):
        shortcut = n_in * n_out if n_in != n_out else 0
        body += 2 * side**2 * (9 * n_in * n_out + 9 * n_out**2 + shortcut)
    return batch_size * (2 * stem + 3 * body)
