"""The programs that published runs are priced as: their work, their kernels, their accumulation."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from autoshard.trace.function import trace
from autoshard.trace.signature import signature
from benchmarks.published import decoder, flash, training

CONFIG = decoder.Config(
    layers=2, embed=64, heads=4, kv_heads=2, head_dim=16, hidden=128, vocab=256, seq=32
)


def program(config, recipe):
    step = training.make_step(partial(decoder.loss, config=config), recipe)
    state = training.state_structs(partial(decoder.structs, config), recipe)
    args = (state, *training.batch_structs(recipe, config.seq))
    sig = signature(args, ["state", "tokens", "targets"])
    return trace(step, sig, name="step", donated=frozenset({0})).program


def matmul_flops(traced):
    return sum(
        op.rule.flops * traced.times(op.region) for op in traced.ops if op.rule.op_class.is_matrix
    )


def recipe(**changes):
    return training.Recipe(**({"microbatches": 1, "replicas": 1, "microbatch": 4} | changes))


def test_every_primitive_has_a_rule():
    traced = program(CONFIG, recipe(microbatches=2, replicas=2))
    assert not list(traced.unknown_ops)


def test_a_kernel_does_half_the_work_of_written_scores():
    """A causal kernel skips the masked half, forward; backward it computes the scores again."""
    shape = jax.ShapeDtypeStruct((1, 32, 4, 16), jnp.bfloat16)
    sig = signature((shape,) * 3, ["query", "key", "value"])

    def flops(causal, rate):
        def attend(*args):
            return flash.flash_attention(*args, causal=causal, rate=rate)

        return matmul_flops(trace(attend, sig, name="attend").program)

    assert flops(False, 1.0) == 2 * 2 * 4 * 32 * 32 * 16
    assert flops(True, 1.0) == flops(False, 1.0) / 2
    assert flops(True, 0.5) == 2 * flops(True, 1.0)


def test_scores_never_reach_memory_in_a_kernel():
    def scores(config):
        traced = program(config, recipe())
        return [t for t in traced.tensors if t.shape[-2:] == (CONFIG.seq, CONFIG.seq)]

    assert not scores(CONFIG)
    written = decoder.Config(**(vars(CONFIG) | {"flash": False, "kv_heads": 4}))
    assert scores(written)


def test_microbatches_do_the_work_of_the_whole_batch():
    whole = matmul_flops(program(CONFIG, recipe(microbatch=4)))
    halves = matmul_flops(program(CONFIG, recipe(microbatch=2, microbatches=2)))
    assert halves == pytest.approx(whole)


def test_replicas_sum_their_gradients_after_the_loop():
    traced = program(CONFIG, recipe(microbatch=4, microbatches=2, replicas=2))
    sums = [op for op in traced.ops if op.kind == "dot_general" and op.region == 0]
    reduced = {traced.tensors[op.outputs[0]].shape for op in sums}
    assert all(tuple(s) in reduced for s in decoder.shapes(CONFIG)["layers"].values())


def test_what_is_computed_again():
    def flops(remat, last=False):
        config = decoder.Config(**(vars(CONFIG) | {"remat": remat, "remat_last": last}))
        return matmul_flops(program(config, recipe()))

    tokens, embed, hidden, inner, kv = 4 * CONFIG.seq, 64, 128, 4 * 16, 2 * 16
    last = 2 * tokens * hidden * embed
    projections = 2 * tokens * embed * (2 * inner + 2 * kv + hidden)
    scores = 2 * 2 * 4 * 4 * CONFIG.seq**2 * 16 / 2
    again = flops("full") - flops("none")
    assert again == 2 * (projections + scores)
    assert flops("full", last=True) - flops("full") == 2 * last
    assert flops("dots") - flops("none") == 2 * scores
