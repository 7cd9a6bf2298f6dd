"""The zoo: names, abstract builds, and a registry that refuses duplicates."""

import time

import jax
import pytest
from flax import nnx

from autoshard.models import gpt, zoo
from autoshard.models.zoo import Entry

NAMES = sorted(zoo.entries())


def test_the_names_users_are_told_of_are_there():
    assert {"gpt-125m", "gpt-1.3b", "gpt-6.7b", "mlp-tiny", "convnet-tiny"} <= set(NAMES)


def same(a, b):
    return (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_builds_abstractly_and_returns_its_own_state(name):
    start_s = time.perf_counter()
    train_step, arguments = zoo.zoo(name, batch_size=8)
    leaves = jax.tree.leaves(arguments)
    assert leaves
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    if name.startswith("gpt-nnx"):
        metrics = nnx.eval_shape(train_step, *arguments)
    elif not zoo.entries()[name].trains:
        cache, out = jax.eval_shape(train_step, *arguments)
        donated = [arguments[i] for i in zoo.entries()[name].donate_argnums]
        assert all(jax.tree.map(same, d, cache) == jax.tree.map(lambda _: True, d) for d in donated)
        assert out["logits"].shape[0] == 8
        return
    else:
        state, metrics = jax.eval_shape(train_step, *arguments)
        before = jax.tree.map(lambda x: (x.shape, x.dtype), arguments[0])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    assert metrics["loss"].shape == ()
    assert time.perf_counter() - start_s < 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpt-125m", 125e6), ("gpt-1.3b", 1.3e9), ("gpt-6.7b", 6.7e9), ("gpt-175b", 175e9)],
)
def test_sizes_are_what_the_names_say(name, expected):
    entry = zoo.entries()[name]
    state, _ = entry.module.abstract_inputs(entry.config, 1)
    params = state["params"]
    # The paper counts the embedding once: it ties the output projection.
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - params["head"].size
    assert count == pytest.approx(expected, rel=0.05)


# As counted from the checkpoints and reference code their authors published.
PUBLISHED = {
    "llama-8b": 8_030_261_248,
    "llama-70b": 70_553_706_496,
    "llama-405b": 405_853_388_800,
    "moe-8x7b": 46_702_792_704,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "ssm-130m": 129_135_360,
    "ssm-1.4b": 1_372_178_432,
    "vit-l": 304_326_632,
    "vit-h": 632_045_800,
    "wrn-28-10": 36_479_194,
    "unet-base": 35_746_307,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    entry = zoo.entries()[name]
    state, _ = entry.module.abstract_inputs(entry.config, 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(state["params"])) == PUBLISHED[name]


def test_decode_gives_up_its_cache_and_train_steps_their_state():
    donated = {name: entry.donate_argnums for name, entry in zoo.entries().items()}
    assert donated["gpt-decode-tiny"] == (1,)
    assert donated["gpt-prefill-tiny"] == ()
    assert donated["gpt-nnx-tiny"] == (0, 1)
    assert donated["llama-tiny"] == (0,)


def test_duplicate_name_is_an_error_that_names_both_owners():
    twice = [("first", {"m": gpt.Config()}, gpt), ("second", {"m": gpt.Config()}, gpt)]
    with pytest.raises(ValueError, match=r"'m' is taken twice: by first and by second"):
        zoo.collect(twice)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"no model 'gpt-9b'.*gpt-1\.3b"):
        zoo.zoo("gpt-9b")


def test_an_entry_is_a_value():
    assert Entry("a", gpt, gpt.Config()) == Entry("a", gpt, gpt.Config())
