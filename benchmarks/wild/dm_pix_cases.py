"""PIX: image processing, batched by `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained_with_key


@case("dm-pix")
def dm_pix_augmented() -> Built:
    """Random crops, flips, rotation, blur and colours before a convolution; SSIM in the loss."""
    import dm_pix as pix
    import optax

    def augmented(key: Any, image: Any) -> Any:
        k = jax.random.split(key, 5)
        image = pix.random_crop(k[0], image, (16, 16, 3))
        image = pix.random_flip_left_right(k[1], image)
        image = pix.random_brightness(k[2], image, 0.2)
        image = pix.random_hue(k[3], jnp.clip(image, 0.0, 1.0), 0.1)
        image = pix.rotate(image, jax.random.uniform(k[4], maxval=0.3), mode="constant")
        return pix.gaussian_blur(image, 1.0, 3)

    def loss_fn(params: Any, key: Any, images: Any) -> Any:
        seen = jax.vmap(augmented)(jax.random.split(key, len(images)), images)
        dims = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(seen, params["in"], (1, 1), "SAME", dimension_numbers=dims)
        out = jax.lax.conv_general_dilated(
            jax.nn.relu(h), params["out"], (1, 1), "SAME", dimension_numbers=dims
        )
        out = jax.nn.sigmoid(out)
        return jnp.mean((out - seen) ** 2) + 1 - pix.ssim(out, seen).mean()

    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(a, (3, 3, 3, 16)) / 5,
        "out": jax.random.normal(b, (3, 3, 16, 3)) / 12,
    }
    images = jax.random.uniform(c, (16, 20, 20, 3))
    return trained_with_key(loss_fn, params, optax.sgd(0.1), images)
