"""ZeRO-1: the batch is split, and so is the optimizer's state; every device holds all parameters.

Every device updates its part of the parameters and gathers the others', once a step. Gradients
are summed straight to where they are needed, a reduce-scatter. No buffer holds them whole until
the step ends, so what the paper calls stage 2 comes with it.
"""

from autoshard.search.strategy import Demand, Kind, Mask, Strategy, View


def over_data(view: View) -> Mask:
    """The optimizer's state and update are split, gradients as is cheapest."""
    if view.kind is Kind.OPTIMIZER:
        return view.split
    return view.any_option if view.kind is Kind.GRADIENT else view.batch


STRATEGY = Strategy(
    name="zero1",
    source="Rajbhandari et al., 'ZeRO: Memory Optimizations Toward Training Trillion Parameter"
    " Models', arXiv:1910.02054, 2020, section 5.1",
    rules={"data": over_data},
    demands={"data": Demand.OPTIMIZER},
)
