"""The whole search on real steps: floors, limits, certificates, repeatability."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import InfeasibleError, autoshard, plan
from autoshard.errors import StrategyError
from autoshard.machine import mesh_from_sizes, parse_machine
from autoshard.models.zoo import zoo
from autoshard.search.build import Analysis
from autoshard.search.layouts import enumerate_layouts, refined, refinement
from autoshard.strategies import STRATEGIES
from tests.search.programs import traced

CASES = ["mlp-8k", "gpt-125m", "gpt-1.3b"]


def planned(name: str, on: str = "v5e:2x4", batch_size: int = 32, **options: Any) -> Any:
    step, args = zoo(name, batch_size=batch_size)
    return plan(step, *args, on=on, donate_argnums=0, **options)


@pytest.mark.parametrize("name", CASES)
def test_never_worse_than_an_expert_that_fits(name: str) -> None:
    auto = planned(name)
    assert auto.prediction.peak_bytes <= auto.machine.memory_limit_bytes
    compared = 0
    for strategy in STRATEGIES:
        try:
            expert = planned(name, strategy=strategy)
        except (InfeasibleError, StrategyError):
            continue
        compared += 1
        assert auto.prediction.step_s <= expert.prediction.step_s * (1 + 1e-6), strategy
    assert compared >= 2


@pytest.mark.parametrize("name", CASES)
def test_the_certificate_holds_together(name: str) -> None:
    p = planned(name)
    c = p.certificate
    assert 0 < c.lower_bound_s <= p.prediction.step_s
    assert c.gap == pytest.approx(1 - c.lower_bound_s / p.prediction.step_s)
    assert c.gap <= 0.02
    assert p.prediction.step_s == pytest.approx(p.prediction.compute_s + p.prediction.exposed_s)
    total = sum(x.seconds for x in p.collectives)
    assert p.prediction.communication_s == pytest.approx(total)


def test_zero3_is_found_when_memory_asks_for_it() -> None:
    free = planned("gpt-125m", mesh={"data": 8}, memory="1TB")
    with pytest.raises(InfeasibleError) as nothing:
        planned("gpt-125m", mesh={"data": 8}, memory="1MB")
    tight = planned("gpt-125m", mesh={"data": 8}, memory=nothing.value.least_bytes * 1.02)
    split = sum(x.bytes_per_device for x in tight.leaves("parameter", "optimizer"))
    whole = sum(8 * x.bytes_per_device for x in tight.leaves("parameter", "optimizer"))
    assert tight.prediction.peak_bytes <= free.prediction.peak_bytes
    assert split < 0.2 * whole
    for leaf in tight.leaves("parameter"):
        if leaf.bytes_per_device > 1 << 20:
            assert not leaf.spec.is_replicated, leaf.path


def test_too_little_memory_says_how_much_would_do_and_what_is_in_the_way() -> None:
    with pytest.raises(InfeasibleError) as caught:
        planned("gpt-125m", memory="100MB")
    error = caught.value
    assert "gpt.py" in str(error)
    assert "per device" in str(error)
    again = planned("gpt-125m", memory=error.least_bytes * 1.01)
    assert again.prediction.peak_bytes <= error.least_bytes * 1.01


def test_equal_seeds_give_equal_plans() -> None:
    one, two = planned("gpt-125m", seed=3), planned("gpt-125m", seed=3)
    assert not one.diff(two)


def test_every_legal_mesh_is_considered() -> None:
    p = planned("gpt-125m")
    others = {r.mesh for r in p.certificate.rivals if r.name == "auto"}
    assert others | {str(p.mesh)} == {
        "data 8 x tensor 1",
        "data 4 x tensor 2",
        "data 2 x tensor 4",
        "data 2 x fsdp 2 x tensor 2",
    }
    assert p.certificate.open_meshes == 0


def test_three_axes_are_taken_where_two_leave_devices_idle() -> None:
    """Each dimension divides by 2 and not by 4: only three axes of size 2 use all 8 devices."""

    def project(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    large = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((2, 8198, 8198), (8198, 8198))]
    p = plan(project, *large, on="v5p:2x2x2")
    assert p.mesh.sizes == {"data": 2, "fsdp": 2, "tensor": 2}
    two = plan(project, *large, on="v5p:2x2x2", mesh={"data": 4, "tensor": 2})
    assert p.prediction.step_s < 0.8 * two.prediction.step_s
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 10), dtype=np.float32)
    w = rng.standard_normal((10, 6), dtype=np.float32)
    run = autoshard(project, mesh=p.mesh.sizes)
    np.testing.assert_allclose(run(x, w), np.tanh(x @ w), rtol=1e-5, atol=1e-5)


def test_a_mesh_of_more_axes_can_do_what_the_coarse_one_does() -> None:
    """Every option of two axes, told for three, lays tensors out in the same pieces."""
    step, args = zoo("gpt-tiny", batch_size=8)
    graph = Analysis(traced(step, *args, donated=frozenset({0})).program).graph
    machine = parse_machine("v5e:2x4")
    coarse = enumerate_layouts(graph, mesh_from_sizes(machine, {"data": 2, "tensor": 4}))
    fine = enumerate_layouts(graph, mesh_from_sizes(machine, {"data": 2, "fsdp": 2, "tensor": 2}))
    parts = refinement(fine.mesh, coarse.mesh)
    assert parts == (0, 1, 1)
    assert refinement(coarse.mesh, fine.mesh) is None
    rng = np.random.default_rng(0)
    for _ in range(5):
        choice = [int(rng.integers(len(options))) for options in coarse.options]
        told = refined(fine, coarse, parts, choice)
        for t in graph.program.tensors:
            node, dims = graph.node_of[t.id], graph.dims[t.id]
            spec = coarse.spec(node, choice[node], dims)
            assert [
                tuple(b for a in axes for b in (("fsdp", "tensor") if a == "tensor" else (a,)))
                for axes in spec.dims
            ] == list(fine.spec(node, told[node], dims).dims)
