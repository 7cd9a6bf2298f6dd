"""FLOPs by formula against an oracle: the matmuls and convolutions counted in the jaxpr."""

import math
from dataclasses import replace

import jax
import pytest
from flax import nnx

from autoshard.models import convnet, gpt, gpt_linen, gpt_nnx, mlp, unet, wideresnet, zoo

TINY = gpt.CONFIGS["gpt-tiny"]

ZOO = zoo.entries()
OTHERS = "llama moe t5 ssm vit dlrm gnn gpt-prefill gpt-decode".split()

CASES = {
    "mlp": (mlp, mlp.CONFIGS["mlp-tiny"]),
    "gpt scanned": (gpt, TINY),
    "gpt unrolled": (gpt, replace(TINY, scan=False)),
    "gpt tied, dropout": (gpt, replace(TINY, tied=True, dropout=0.1)),
    "gpt_linen": (gpt_linen, TINY),
    "convnet": (convnet, convnet.CONFIGS["convnet-tiny"]),
}


def inner(eqn):
    """The jaxprs an equation holds."""
    for leaf in jax.tree.leaves(list(eqn.params.values())):
        leaf = getattr(leaf, "jaxpr", leaf)
        if hasattr(leaf, "eqns"):
            yield leaf


def counted(jaxpr) -> int:
    """FLOPs of dot_general and of convolutions as the forward pass would count them."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            k = math.prod(eqn.invars[0].aval.shape[d] for d in contract)
            total += 2 * k * math.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "ragged_dot_general":
            numbers = eqn.params["ragged_dot_dimension_numbers"]
            (_, contract), _ = numbers.dot_dimension_numbers
            left, right = (v.aval.shape for v in eqn.invars[:2])
            skip = {*contract, *numbers.rhs_group_dimensions}
            columns = math.prod(n for d, n in enumerate(right) if d not in skip)
            total += 2 * math.prod(left) * columns
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += times * sum(counted(sub) for sub in inner(eqn))
    return total


def convolutions_forward(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            height, width, n_in, _ = eqn.invars[1].aval.shape
            total += 2 * height * width * n_in * math.prod(eqn.outvars[0].aval.shape)
        total += sum(convolutions_forward(sub) for sub in inner(eqn))
    return total


@pytest.mark.parametrize("name", [name for name in CASES if name != "convnet"])
def test_formula_equals_the_matmuls_in_the_train_step(name):
    module, config = CASES[name]
    jaxpr = jax.make_jaxpr(module.make_train_step(config))(*module.abstract_inputs(config, 4))
    assert module.flops(config, 4) == counted(jaxpr.jaxpr)


@pytest.mark.parametrize("name", [f"{family}-tiny" for family in OTHERS] + ["moe-tiny-ragged"])
def test_formula_equals_the_matmuls_in_the_step(name):
    entry = ZOO[name]
    step, arguments = entry.build(4)
    assert entry.module.flops(entry.config, 4) == counted(jax.make_jaxpr(step)(*arguments).jaxpr)


def test_nnx_formula_equals_the_matmuls_in_the_train_step():
    model, optimizer, batch = gpt_nnx.example_inputs(TINY, 4)
    definition, state = nnx.split((model, optimizer))

    def pure(state, batch):
        model, optimizer = nnx.merge(definition, state)
        return gpt_nnx.train_step(model, optimizer, batch)["loss"], nnx.state((model, optimizer))

    assert gpt_nnx.flops(TINY, 4) == counted(jax.make_jaxpr(pure)(state, batch).jaxpr)


def test_convnet_formula_equals_the_forward_pass_times_three():
    module, config = CASES["convnet"]
    state, batch = module.abstract_inputs(config, 4)
    forward = jax.make_jaxpr(lambda p, x: module.apply(p, x, config))(
        state["params"], batch["images"]
    ).jaxpr
    stem = 2 * 4 * config.image**2 * 9 * config.channels * config.widths[0]
    expected = 3 * (convolutions_forward(forward) + counted(forward)) - stem
    assert module.flops(config, 4) == expected


def test_gpt_125m_by_hand():
    # 12 layers of 12 * 768^2 weights, 768 * 50304 of output projection; 1024 positions.
    by_hand = 1024 * (6 * (12 * 12 * 768**2 + 768 * 50304) + 12 * 12 * 1024 * 768)
    assert gpt.flops(gpt.CONFIGS["gpt-125m"], 1) == by_hand


def test_wideresnet_formula_equals_the_forward_pass_times_three():
    config = wideresnet.CONFIGS["wrn-tiny"]
    state, batch = wideresnet.abstract_inputs(config, 4)
    forward = jax.make_jaxpr(lambda p, x: wideresnet.apply(p, x, config))(
        state["params"], batch["images"]
    ).jaxpr
    stem = 2 * 4 * config.image**2 * 9 * config.channels * 16
    expected = 3 * (convolutions_forward(forward) + counted(forward)) - stem
    assert wideresnet.flops(config, 4) == expected


def test_unet_formula_equals_the_forward_pass_times_three():
    config = unet.CONFIGS["unet-tiny"]
    state, batch = unet.abstract_inputs(config, 4)
    times = jax.ShapeDtypeStruct((4,), "int32")
    forward = jax.make_jaxpr(lambda p, x, t: unet.apply(p, x, t, config))(
        state["params"], batch["images"], times
    ).jaxpr
    inputs = 2 * config.image**2 * 9 * config.channels * config.width + 8 * config.width**2
    expected = 3 * (convolutions_forward(forward) + counted(forward)) - 4 * inputs
    assert unet.flops(config, 4) == expected
