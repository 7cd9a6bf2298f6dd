"""Eight simulated CPU devices for every test; set before anything can import JAX."""

import gc
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices share few cores here. Programs run one at a time, and a collective may wait long
# for its last participant: XLA aborts the process after 40 s otherwise.
os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "0"
# LLVM's optimiser is left out, and so are the emitters that make a module of MLIR of every fusion:
# together they take most of the compile time, and change neither the HLO nor its collectives. XLA
# ends the process at a flag that it does not know: the TPU compiler knows nothing of the emitters,
# and from jaxlib 0.11.1 on the CPU's knows no way without them.
_JAXLIB = tuple(map(int, version("jaxlib").split(".")[:3]))
_LEAVES_EMITTERS_OUT = _JAXLIB < (0, 11, 1) and not find_spec("libtpu")
_EMITTERS = " --xla_cpu_use_fusion_emitters=false" if _LEAVES_EMITTERS_OUT else ""
_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    f"{_EMITTERS} --xla_cpu_collective_call_terminate_timeout_seconds=600"
)
if _FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

import pytest


@pytest.fixture(scope="session")
def devices():
    """The eight simulated devices."""
    import jax

    found = jax.devices()
    assert len(found) == 8, f"expected 8 CPU devices, JAX was started with {len(found)}"
    return found


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """Each compiled program holds memory mappings, and a process may only have so many (65530).

    Between modules they are let go; `tests/laws` does so between tests.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()
