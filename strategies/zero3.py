"""ZeRO-3 / FSDP: the batch is split, and so is all state at rest; weights are gathered for use.

Products read whole weights, so that somewhere on its way from rest a weight is gathered: an
explicit collective, of the narrowest type it has on that way. Gradients are reduce-scattered.
"""

from autoshard.search.strategy import AT_REST, WITHOUT_BATCH, Mask, Strategy, View


def over_data(view: View) -> Mask:
    """All state is split; weights and gradients on their way as is cheapest."""
    if view.kind in AT_REST:
        return view.split
    return view.any_option if view.kind in WITHOUT_BATCH else view.batch


STRATEGY = Strategy(
    name="zero3",
    source="Rajbhandari et al., 'ZeRO: Memory Optimizations Toward Training Trillion Parameter"
    " Models', arXiv:1910.02054, 2020; Zhao et al., 'PyTorch FSDP', arXiv:2304.11277, 2023",
    rules={"data": over_data},
)
