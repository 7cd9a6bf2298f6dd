"""A plan compiled for eight simulated devices, end to end; the cache; missing compilers."""

import os

import jax
import jax.numpy as jnp
import pytest

from autoshard.api import verify
from autoshard.machine import parse_machine
from autoshard.verify import cache
from autoshard.verify.complaints import complaints, reading
from autoshard.verify.devices import NoCompilerError, compiler_devices
from autoshard.verify.witness import Witness


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "autoshard" / "compiled"


def step(w, x):
    def loss(w):
        return jnp.mean(jnp.square(jnp.tanh(x @ w["up"]) @ w["down"]))

    grads = jax.grad(loss)(w)
    return jax.tree.map(lambda w, g: w - 0.1 * g, w, grads)


ARGUMENTS = (
    {
        "up": jax.ShapeDtypeStruct((64, 256), jnp.float32),
        "down": jax.ShapeDtypeStruct((256, 64), jnp.float32),
    },
    jax.ShapeDtypeStruct((512, 64), jnp.float32),
)


def test_a_data_parallel_step_on_cpu(devices, kept):
    options = {"on": "cpu:8", "mesh": {"data": 8}, "donate_argnums": (0,), "tolerance": 0.35}
    found = verify(step, *ARGUMENTS, strategy="data_parallel", **options)
    assert found.communication_error == 0, (found.unplanned, found.missing)
    state_bytes = 2 * 64 * 256 * 4
    assert found.witness.peak_bytes > state_bytes
    assert found.witness.alias_bytes >= state_bytes  # donated
    assert {r.axes for r in found.rows} == {("data",)}
    assert all(__file__ in s.source for s in found.witness.collectives if s.bytes > 8)

    (file,) = kept.iterdir()
    before = file.stat().st_mtime_ns
    again = verify(step, *ARGUMENTS, strategy="data_parallel", **options)
    assert again.witness == found.witness
    assert file.stat().st_mtime_ns == before


def test_a_damaged_or_missing_file_is_as_good_as_none(tmp_path):
    assert cache.load(tmp_path / "no.json") is None
    broken = tmp_path / "broken.json"
    broken.write_text('{"platform": 3}')
    assert cache.load(broken) is None


def test_a_directory_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    cache.store(tmp_path / "file" / "x.json", Witness("cpu", 1, 2, 0, 3, (), 0.5))


def test_too_few_simulated_devices(devices):
    with pytest.raises(NoCompilerError, match="needs 64 simulated devices and JAX was started"):
        compiler_devices(parse_machine("cpu:64"))


def test_without_the_tpu_extra_the_error_names_it():
    if jax.config.jax_platforms == "cpu" and _has("libtpu"):
        pytest.skip("libtpu is installed")
    with pytest.raises(NoCompilerError, match=r"cannot compile for v5e:2x4(.|\n)*extra 'tpu'"):
        compiler_devices(parse_machine("v5e:2x4"))


def test_without_the_gpu_extra_the_error_says_how_to_install_it():
    if _has("jax_plugins.xla_cuda12"):
        pytest.skip("the CUDA plugin is installed")
    with pytest.raises(NoCompilerError, match=r"--no-deps jax-cuda12-plugin==(.|\n)*'gpu-aot'"):
        compiler_devices(parse_machine("8xh100"))


def test_a_chip_that_xla_has_no_description_of():
    with pytest.raises(NoCompilerError, match="description of v100"):
        compiler_devices(parse_machine("8xv100"))


def _has(module):
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


WARNING = (
    "W1124 spmd_partitioner.cc:656] [SPMD] Involuntary full rematerialization. The compiler cannot"
    " go from sharding {devices=[8,1,1]<=[8]} to {devices=[1,4,2]<=[2,4]T(1,0)"
    " last_tile_dim_replicate} efficiently for HLO operation %sharding_constraint.5 ="
    " bf16[2,1024,768]{2,1,0} copy(%add.1), sharding={devices=[8,1,1]<=[8]},"
    ' metadata={op_name="jit(step)/jvp()/dot" stack_frame_id=9}. As the last resort, ...'
)


def test_the_partitioner_s_complaints_are_read():
    assert reading(WARNING) == (
        "bf16[2,1024,768] made whole on the way from {devices=[8,1,1]<=[8]} to"
        " {devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate} (jit(step)/jvp()/dot)"
    )
    assert reading("W1124 something else") == ""


def test_complaints_are_caught_and_the_rest_of_stderr_is_not(capfd):
    with complaints() as heard:
        os.write(2, f"{WARNING}\nother words\n".encode())  # as XLA writes, under Python
    assert heard == [reading(WARNING)]
    assert capfd.readouterr().err == "other words\n"
