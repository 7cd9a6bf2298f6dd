"""Compiling for a TPU that is not here; needs the extra `tpu`."""

import jax
import pytest

from autoshard import autoshard
from tests.api.steps import batch_of, create_state, train_step

pytest.importorskip("libtpu")


def test_a_tpu_program_compiles_without_a_tpu() -> None:
    abstract = jax.eval_shape(lambda: (create_state(jax.random.key(0), 256), batch_of(64)))
    step = autoshard(
        train_step, devices="v5e:2x4", strategy="zero3", mesh={"data": 8}, donate_argnums=0
    )
    compiled = step.lower(*abstract).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes > 0
    assert "all-gather" in compiled.as_text()
    up = compiled.input_shardings[0][0]["params"]["up"]
    assert len(up.device_set) == 8
    assert up.shard_shape((8, 256)) in ((8, 32), (1, 256))
