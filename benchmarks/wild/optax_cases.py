"""Optax: its optimizers, wrappers and losses, on a model of two matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.wild.case import Built, case


def _params() -> dict[str, Any]:
    a, b = jax.random.split(jax.random.key(0))
    return {
        "up": {"w": jax.random.normal(a, (32, 64)) / 6, "b": jnp.zeros(64)},
        "down": {"w": jax.random.normal(b, (64, 16)) / 8, "b": jnp.zeros(16)},
    }


def _predict(p: Any, x: Any) -> Any:
    h = jnp.tanh(x @ p["up"]["w"] + p["up"]["b"])
    return h @ p["down"]["w"] + p["down"]["b"]


def _trained(optimizer: Any, *, whole_state: bool = True) -> Built:
    import optax

    x = jax.random.normal(jax.random.key(1), (16, 32))
    params = _params()

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss_fn(p: Any) -> Any:
            return optax.huber_loss(_predict(p, batch[0]), batch[1]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        state = (optax.apply_updates(params, updates), opt_state)
        return state, {"loss": loss, "grads": grads}

    state = (params, optimizer.init(params))
    return Built(step, state, (x, jnp.cos(x[:, :16])), whole_state)


def _optimizers() -> dict[str, Callable[[], Built]]:
    def adafactor() -> Built:
        import optax

        return _trained(optax.adafactor(1e-2, min_dim_size_to_factor=8))

    def lion() -> Built:
        import optax

        return _trained(optax.lion(1e-3), whole_state=False)

    def muon() -> Built:
        import optax

        return _trained(optax.contrib.muon(1e-3))

    def schedule_free() -> Built:
        import optax

        optimizer = optax.contrib.schedule_free_adamw(1e-2, warmup_steps=2)
        return _trained(optimizer, whole_state=False)

    def multi_steps() -> Built:
        import optax

        inner = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9))
        return _trained(optax.MultiSteps(inner, every_k_schedule=2))

    def if_finite() -> Built:
        import optax

        return _trained(optax.apply_if_finite(optax.adam(1e-2), max_consecutive_errors=3))

    def lamb() -> Built:
        import optax

        return _trained(optax.chain(optax.adaptive_grad_clip(0.1), optax.lamb(1e-3)))

    def lbfgs() -> Built:
        import optax

        return _trained(optax.chain(optax.scale_by_lbfgs(memory_size=3), optax.scale(-0.1)))

    def masked() -> Built:
        import optax

        labels = {"up": {"w": "a", "b": "b"}, "down": {"w": "b", "b": "a"}}
        parts = {"a": optax.sgd(0.1, momentum=0.9), "b": optax.rmsprop(1e-2)}
        return _trained(optax.multi_transform(parts, labels), whole_state=False)

    def noisy() -> Built:
        import optax

        return _trained(optax.noisy_sgd(1e-2))

    def averaged() -> Built:
        import optax

        return _trained(optax.chain(optax.sgd(0.1), optax.ema(0.9), optax.centralize()))

    found = (adafactor, lion, muon, schedule_free, multi_steps, if_finite, lbfgs, masked, noisy)
    return {f"optax_{f.__name__}": f for f in (*found, lamb, averaged)}


for _name, _build in _optimizers().items():
    _build.__name__ = _name
    case("optax")(_build)


@case("optax")
def optax_ctc() -> Built:
    """`optax.ctc_loss`: a scan over time inside the loss."""
    import optax

    params = _params()
    optimizer = optax.sgd(0.05)
    x = jax.random.normal(jax.random.key(1), (8, 12, 32))
    labels = jax.random.randint(jax.random.key(2), (8, 4), 1, 16)
    pads = (jnp.arange(12)[None, :] >= jnp.array([12, 11, 10, 9, 12, 12, 8, 12])[:, None]) * 1.0
    label_pads = (jnp.arange(4)[None, :] >= jnp.array([4, 3, 2, 1, 4, 4, 2, 3])[:, None]) * 1.0

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        x, pads, labels, label_pads = batch

        def loss_fn(p: Any) -> Any:
            return optax.ctc_loss(_predict(p, x), pads, labels, label_pads).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Built(step, (params, optimizer.init(params)), (x, pads, labels, label_pads))


@case("optax")
def optax_losses() -> Built:
    """Several of Optax's losses at once: focal, cosine, contrastive, triplet."""
    import optax

    params = _params()
    optimizer = optax.sgd(0.05)
    x = jax.random.normal(jax.random.key(1), (16, 32))
    y = jnp.arange(16) % 4

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        x, y = batch

        def loss_fn(p: Any) -> Any:
            out = _predict(p, x)
            target = jax.nn.one_hot(y, 16)
            return (
                optax.sigmoid_focal_loss(out, target).mean()
                + optax.cosine_distance(out, target, epsilon=1e-3).mean()
                + optax.losses.ntxent(out, y)
                + optax.losses.kl_divergence(jax.nn.log_softmax(out), target).mean()
                + optax.losses.triplet_margin_loss(out, target, jnp.roll(target, 1, 0)).mean()
            )

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss}

    return Built(step, (params, optimizer.init(params)), (x, y))
