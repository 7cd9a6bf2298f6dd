"""Over the zoo, with and without memory to spare: no expert that fits is faster than ours."""

from typing import Any

import pytest

from autoshard import InfeasibleError, plan
from autoshard.errors import StrategyError
from autoshard.models.zoo import entries, zoo
from autoshard.strategies import STRATEGIES

TINY = [name for name in entries() if "tiny" in name and "-nnx" not in name]


def planned(name: str, **options: Any) -> Any:
    step, args = zoo(name, batch_size=8)
    donated = entries()[name].donate_argnums
    return plan(step, *args, on="v5e:2x4", donate_argnums=donated, **options)


# Tight memory makes these hard enough that the whole time limit is used.
TIGHT = ["mlp-tiny", "gpt-tiny", "vit-tiny", "wrn-tiny", "dlrm-tiny"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spare"), [*((name, None) for name in TINY), *((name, 0.3) for name in TIGHT)]
)
def test_no_expert_that_fits_is_predicted_faster(name: str, spare: float | None) -> None:
    """The limit lies between the least that works and what the fastest plan takes."""
    memory = None
    if spare is not None:
        most = planned(name).prediction.peak_bytes
        with pytest.raises(InfeasibleError) as nothing:
            planned(name, memory=1)
        least = nothing.value.least_bytes
        memory = int(least + spare * max(most - least, 0.01 * least))
    # A loaded machine does less in the same time. All experts together get no less than each alone.
    auto = planned(name, memory=memory, time_limit_s=20)
    assert memory is None or auto.prediction.peak_bytes <= memory
    for strategy in STRATEGIES:
        try:
            expert = planned(name, memory=memory, strategy=strategy, time_limit_s=5)
        except (InfeasibleError, StrategyError):
            continue
        assert auto.prediction.step_s <= expert.prediction.step_s * (1 + 1e-6), strategy
