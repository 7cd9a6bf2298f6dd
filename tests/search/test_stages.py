"""What strategies leave to an axis of stages, outside of them."""

import numpy as np
import pytest

from autoshard.search.kinds import WITHOUT_BATCH, Kind
from autoshard.search.strategy import View, over_stages

IDLE, BATCH, OTHER = range(3)


def view(kind):
    """Three options: whole, split along the batch, split along something else."""
    return View(
        kind=kind,
        residual=False,
        product=False,
        on=np.array([False, True, True]),
        on_batch=np.array([False, True, False]),
        on_sequence=np.zeros(3, dtype=bool),
        on_experts=np.zeros(3, dtype=bool),
    )


@pytest.mark.parametrize("kind", [Kind.MATMUL, Kind.ACTIVATION])
def test_examples_are_dealt_out_over_stages_or_whole_on_each(kind):
    # A batch that `data` uses up leaves none for the stages: `data` must not go idle with them.
    assert np.flatnonzero(over_stages(view(kind))).tolist() == [IDLE, BATCH]


@pytest.mark.parametrize("kind", sorted(WITHOUT_BATCH, key=str))
def test_state_lies_anyhow(kind):
    assert over_stages(view(kind)).all()
