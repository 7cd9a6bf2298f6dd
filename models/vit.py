"""A vision transformer in plain JAX, with a class token.

Sizes of `vit-l` and `vit-h` are those of Dosovitskiy et al. 2020, "An Image is Worth 16x16
Words", table 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autoshard.models import parts, training
from autoshard.models.training import Batch, Params, State, TrainStep


@dataclass(frozen=True)
class Config:
    """Sizes and training constants.

    Attributes:
        image, patch, channels: side of the input and of a patch, and the input's channels.
        layers, heads, embed, hidden: layers, heads, width of the residual stream and of the MLP.
        classes: to tell apart.
        scan: keep the layers stacked and loop over them, instead of a list of layers.
        remat: recompute a layer's activations in the backward pass.
        compute_dtype: of activations and of weights in use; weights at rest are float32.
    """

    image: int = 224
    patch: int = 16
    channels: int = 3
    layers: int = 24
    heads: int = 16
    embed: int = 1024
    hidden: int = 4096
    classes: int = 1000
    scan: bool = True
    remat: bool = False
    compute_dtype: str = "bfloat16"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.image % self.patch:
            raise ValueError(f"image {self.image} is not divisible by patch {self.patch}")
        if self.embed % self.heads:
            raise ValueError(f"embed {self.embed} is not divisible by heads {self.heads}")

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def pixels(self) -> int:
        """Numbers in one patch."""
        return self.patch**2 * self.channels


CONFIGS = {
    "vit-tiny": Config(image=16, patch=4, layers=2, heads=4, embed=32, hidden=64, classes=16),
    "vit-l": Config(),
    "vit-h": Config(patch=14, layers=32, embed=1280, hidden=5120, remat=True),
}


def init_layer(key: jax.Array, config: Config) -> Params:
    """The parameters of one layer, float32."""
    e, h, d = config.embed, config.heads, config.head_dim
    keys = jax.random.split(key, 6)
    attention: Params = {}
    for name, k in zip(("query", "key", "value"), keys, strict=False):
        attention[name] = {"kernel": parts.weight(k, (e, h, d), e), "bias": jnp.zeros((h, d))}
    attention["out"] = {"kernel": parts.weight(keys[3], (h, d, e), e), "bias": jnp.zeros(e)}
    return {
        "norm1": parts.norm_params(e),
        "attention": attention,
        "norm2": parts.norm_params(e),
        "up": parts.dense_params(keys[4], e, config.hidden),
        "down": parts.dense_params(keys[5], config.hidden, e),
    }


def init(key: jax.Array, config: Config) -> State:
    """The training state: `params`, `opt_state`, `step`."""
    e = config.embed
    patch_key, position_key, layers_key, head_key = jax.random.split(key, 4)
    params = {
        "patch": parts.dense_params(patch_key, config.pixels, e),
        "class": jnp.zeros(e),
        "position": jax.random.normal(position_key, (config.patches + 1, e)) * 0.02,
        "layers": parts.layer_params(
            lambda k: init_layer(k, config), layers_key, config.layers, config.scan
        ),
        "final_norm": parts.norm_params(e),
        "head": parts.dense_params(head_key, e, config.classes),
    }
    return training.new_state(params, config)


def patches(images: jax.Array, config: Config) -> jax.Array:
    """Images `[batch, height, width, channels]` cut up: `[batch, patch, pixels]`."""
    batch, side = images.shape[0], config.image // config.patch
    cut = images.reshape(batch, side, config.patch, side, config.patch, config.channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, config.patches, config.pixels)


def attention(params: Params, x: jax.Array) -> jax.Array:
    """Self-attention of `x` `[batch, token, embed]`, every token seeing every other."""

    def project(name: str) -> jax.Array:
        weight = {k: p.astype(x.dtype) for k, p in params[name].items()}
        return jnp.einsum("bte,ehd->bthd", x, weight["kernel"]) + weight["bias"]

    mixed = parts.attend(project("query"), project("key"), project("value"))
    out = {k: p.astype(x.dtype) for k, p in params["out"].items()}
    return jnp.einsum("bthd,hde->bte", mixed, out["kernel"]) + out["bias"]


def layer(params: Params, x: jax.Array) -> jax.Array:
    """One transformer layer on the residual stream `[batch, token, embed]`."""
    x = x + attention(params["attention"], parts.layer_norm(params["norm1"], x))
    hidden = jax.nn.gelu(parts.dense(params["up"], parts.layer_norm(params["norm2"], x)))
    return x + parts.dense(params["down"], hidden)


def apply(params: Params, images: jax.Array, config: Config) -> jax.Array:
    """Logits `[batch, classes]` for `images` `[batch, height, width, channels]`."""
    x = parts.dense(params["patch"], patches(images.astype(config.compute_dtype), config))
    first = jnp.broadcast_to(params["class"].astype(x.dtype), (x.shape[0], 1, config.embed))
    x = jnp.concatenate([first, x], axis=1) + params["position"].astype(x.dtype)
    x = parts.run_layers(layer, params["layers"], x, scan=config.scan, remat=config.remat)
    return parts.dense(params["head"], parts.layer_norm(params["final_norm"], x[:, 0]))


def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
    """Mean cross-entropy per image in nats, float32."""
    return training.cross_entropy(apply(params, batch["images"], config), batch["labels"])


def make_train_step(config: Config) -> TrainStep:
    """The train step for one device."""
    return training.step_of(loss, config)


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
    """Matmul FLOPs of one train step; images need no gradient, recomputation is not counted."""
    e, tokens = config.embed, config.patches + 1
    per_layer = 2 * tokens * (4 * e * e + 2 * e * config.hidden) + 4 * tokens * tokens * e
    forward = config.layers * per_layer + 2 * e * config.classes
    return batch_size * (3 * forward + 2 * 2 * config.patches * config.pixels * e)
