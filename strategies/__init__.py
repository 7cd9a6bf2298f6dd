"""Expert layouts, one file each. They are baselines, hints to the search, and options for users."""

from autoshard.search.strategy import Strategy
from autoshard.strategies import data_parallel, fsdp_tensor, megatron, zero3

STRATEGIES: dict[str, Strategy] = {}
for _module in (data_parallel, zero3, megatron, fsdp_tensor):
    _strategy = _module.STRATEGY
    if _strategy.name in STRATEGIES:
        raise ValueError(f"two strategies are called {_strategy.name!r}")
    STRATEGIES[_strategy.name] = _strategy
