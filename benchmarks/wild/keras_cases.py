"""Keras 3 on its JAX backend: stateless calls, variables as flat lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _keras() -> Any:
    """Keras on JAX.

    Raises:
        ImportError: Keras is absent, or was imported on another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise ImportError(f"KERAS_BACKEND is {keras.backend.backend()!r}, not 'jax'")
    keras.utils.set_random_seed(0)
    return keras


def _arrays(variables: Sequence[Any]) -> list[Any]:
    return [variable.value for variable in variables]


def _trained(
    model: Any,
    optimizer: Any,
    loss_of: Any,
    batch: Any,
    *,
    whole_state: bool = True,
    zeros: tuple[str, ...] = (),
) -> Built:
    """After Keras's guide "Writing a training loop in JAX"."""
    optimizer.build(model.trainable_variables)
    names = [variable.path for variable in model.trainable_variables]

    def loss_fn(trainable: Any, rest: Any, batch: Any) -> Any:
        prediction, rest = model.stateless_call(trainable, rest, batch[0], training=True)
        return jnp.mean(loss_of(batch[1], prediction)), rest

    def step(state: Any, batch: Any) -> Any:
        trainable, rest, opt = state
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = value_and_grad(trainable, rest, batch)
        trainable, opt = optimizer.stateless_apply(opt, grads, trainable)
        return (trainable, rest, opt), {
            "loss": loss,
            "grads": dict(zip(names, grads, strict=True)),
        }

    state = (
        _arrays(model.trainable_variables),
        _arrays(model.non_trainable_variables),
        _arrays(optimizer.variables),
    )
    return Built(step, state, batch, whole_state, zeros)


@case("keras")
def keras_mlp() -> Built:
    """Dense layers, batch norm, dropout with its seed generator, L2 on the kernels, SGD."""
    keras = _keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((24,)),
            layers.Dense(64, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(32, activation="gelu"),
            layers.Dense(16),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = jax.random.normal(jax.random.key(0), (32, 24))
    y = jax.random.randint(jax.random.key(1), (32,), 0, 16)
    return _trained(model, keras.optimizers.SGD(0.05, momentum=0.9), loss, (x, y))


@case("keras")
def keras_cnn() -> Built:
    """Convolution, separable and depthwise convolution, pooling, up-sampling, AdamW."""
    keras = _keras()
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    h = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    skip = h
    h = layers.MaxPooling2D()(h)
    h = layers.SeparableConv2D(32, 3, padding="same", activation="silu")(h)
    h = layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.UpSampling2D()(h)
    h = layers.Concatenate()([h, skip])
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(h))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    y = jax.nn.one_hot(jnp.arange(16) % 10, 10)
    return _trained(model, keras.optimizers.AdamW(1e-3), loss, (x, y), whole_state=False)


@case("keras")
def keras_transformer() -> Built:
    """Embedding, causal `MultiHeadAttention`, `GroupQueryAttention`, layer norm, Adam, clipped."""
    keras = _keras()
    layers = keras.layers
    vocab, length, width = 48, 16, 32
    inputs = keras.Input((length,), dtype="int32")
    h = layers.Embedding(vocab, width)(inputs)
    n = layers.LayerNormalization()(h)
    h = h + layers.MultiHeadAttention(4, 8)(n, n, use_causal_mask=True)
    n = layers.RMSNormalization()(h)
    h = h + layers.GroupQueryAttention(8, 4, 2)(n, n, use_causal_mask=True)
    h = h + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(h))
    model = keras.Model(inputs, layers.Dense(vocab)(layers.LayerNormalization()(h)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tokens = jax.random.randint(jax.random.key(0), (8, length + 1), 0, vocab)
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    batch = (tokens[:, :-1], tokens[:, 1:])
    zeros = ("key/bias",)
    return _trained(model, optimizer, loss, batch, whole_state=False, zeros=zeros)


@case("keras")
def keras_rnn() -> Built:
    """`Bidirectional(LSTM)`, then `GRU`, over masked sequences."""
    keras = _keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((12,), dtype="int32"),
            layers.Embedding(32, 16, mask_zero=True),
            layers.Bidirectional(layers.LSTM(16, return_sequences=True)),
            layers.GRU(32),
            layers.Dense(1),
        ]
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    x = jax.random.randint(jax.random.key(0), (16, 12), 1, 32)
    x = jnp.where(jnp.arange(12) < 6 + jnp.arange(16)[:, None] % 7, x, 0)
    y = (jnp.arange(16) % 2).astype(jnp.float32)[:, None]
    return _trained(model, keras.optimizers.RMSprop(1e-3), loss, (x, y), whole_state=False)


@case("keras")
def keras_autoencoder() -> Built:
    """Strided and transposed convolutions, `GroupNormalization`: predictions only."""
    keras = _keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same"),
            layers.GroupNormalization(4),
            layers.LeakyReLU(0.1),
            layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="elu"),
            layers.Conv2D(3, 3, padding="same", activation="sigmoid"),
        ]
    )
    x = jax.random.uniform(jax.random.key(0), (16, 16, 16, 3))

    def step(state: Any, batch: Any) -> Any:
        weights, seen = state
        out, _ = model.stateless_call(weights, [], batch, training=False)
        return (weights, seen + 1), {"out": out, "error": keras.ops.mean((out - batch) ** 2)}

    return Built(step, (_arrays(model.variables), jnp.int32(0)), x)
