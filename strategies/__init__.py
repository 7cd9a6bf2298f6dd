"""Expert layouts, one file each. They are baselines, hints to the search, and options for users."""

from autoshard.errors import StrategyError
from autoshard.search.strategy import Strategy, combined
from autoshard.strategies import (
    context_parallel,
    data_parallel,
    expert_parallel,
    fsdp_tensor,
    megatron,
    sequence_parallel,
    zero1,
    zero3,
)

STRATEGIES: dict[str, Strategy] = {}
for _module in (
    data_parallel,
    zero1,
    zero3,
    megatron,
    sequence_parallel,
    context_parallel,
    expert_parallel,
    fsdp_tensor,
):
    _strategy = _module.STRATEGY
    if _strategy.name in STRATEGIES:
        raise ValueError(f"two strategies are called {_strategy.name!r}")
    STRATEGIES[_strategy.name] = _strategy


def strategy_of(name: str) -> Strategy:
    """The strategy of a name, or the combination of several: "zero1+megatron".

    Raises:
        StrategyError: there is none of that name, or two of them lay out the same axis.
    """
    parts = name.split("+")
    for part in parts:
        if part not in STRATEGIES:
            of = f" of strategy={name!r}" if len(parts) > 1 else ""
            raise StrategyError(
                f"strategy={part!r}{of} is not known; choose 'auto', one of"
                f" {', '.join(STRATEGIES)}, or several of different axes such as 'zero1+megatron'"
            )
    return STRATEGIES[name] if len(parts) == 1 else combined(*(STRATEGIES[p] for p in parts))
