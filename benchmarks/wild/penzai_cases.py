"""Penzai: named axes, variables bound and unbound, transformers with and without a cache."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.wild.case import Built, case
from benchmarks.wild.training import trained

_VOCAB = 48


def _transformer(*, stacked: bool, tied: bool) -> Any:
    """A small model of the family of Gemma and Llama."""
    from penzai.models.transformer.variants import llamalike_common

    config = llamalike_common.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=2,
        embedding_dim=32,
        projection_dim=8,
        mlp_hidden_dim=64,
        num_decoder_blocks=2,
        vocab_size=_VOCAB,
        mlp_variant="geglu_approx" if tied else "swiglu",
        tie_embedder_and_logits=tied,
        final_logit_softcap=30.0 if tied else None,
        use_layer_stack=stacked,
    )
    return llamalike_common.build_llamalike_transformer(config, jax.random.key(0))


def _trained(model: Any) -> Built:
    import optax
    from penzai import pz

    net, variables = pz.unbind_params(model, freeze=True)

    def loss_fn(variables: Any, batch: Any) -> Any:
        model = pz.bind_variables(net, variables)
        logits = model(pz.nx.wrap(batch[:, :-1], "batch", "seq"))
        logits = logits.unwrap("batch", "seq", "vocabulary")
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    tokens = jax.random.randint(jax.random.key(1), (8, 17), 0, _VOCAB)
    return trained(loss_fn, variables, optax.sgd(1e-2), tokens)


@case("penzai")
def penzai_llama() -> Built:
    """Grouped-query attention, rotary positions, SwiGLU; blocks one by one."""
    return _trained(_transformer(stacked=False, tied=False))


@case("penzai")
def penzai_gemma() -> Built:
    """Tied embeddings, soft-capped logits; blocks stacked in a scan."""
    return _trained(_transformer(stacked=True, tied=True))


@case("penzai")
def penzai_decode() -> Built:
    """`KVCachingTransformerLM`: one token a step, greedy, caches as state variables."""
    from penzai import pz
    from penzai.models.transformer import sampling_mode

    model = sampling_mode.KVCachingTransformerLM.from_uncached(
        _transformer(stacked=False, tied=True), cache_len=16, batch_axes={"batch": 8}
    )
    net, variables = pz.unbind_variables(model, freeze=True)
    weights = [v for v in variables if isinstance(v, pz.ParameterValue)]
    caches = [v for v in variables if not isinstance(v, pz.ParameterValue)]

    def step(state: Any, weights: Any) -> Any:
        caches, tokens = state
        live = [cache.unfreeze_as_copy() for cache in caches]
        model = pz.bind_variables(net, [*weights, *live])
        logits = model(pz.nx.wrap(tokens, "batch", "seq")).unwrap("batch", "seq", "vocabulary")
        caches = [variable.freeze() for variable in live]
        return (caches, logits.argmax(-1)), {"logits": logits}

    tokens = jax.random.randint(jax.random.key(1), (8, 1), 1, _VOCAB)
    return Built(step, (jax.tree.map(jax.numpy.asarray, caches), tokens), weights)
