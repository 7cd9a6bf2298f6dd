"""Context parallelism: the sequence is split everywhere, also in products and in attention.

Weights are whole along the axis, so only attention needs tokens of other devices: keys and values
are gathered (Llama 3), where Ring attention would pass them around piece by piece.
"""

from autoshard.search.strategy import WITHOUT_BATCH, Demand, Mask, Strategy, View


def over_tensor(view: View) -> Mask:
    """Whatever has a sequence is split along it, everything else is whole."""
    return view.idle if view.kind in WITHOUT_BATCH else view.or_idle(view.on_sequence)


STRATEGY = Strategy(
    name="context_parallel",
    source="Dubey et al., 'The Llama 3 Herd of Models', arXiv:2407.21783, 2024, section 3.3.2;"
    " Liu et al., 'Ring Attention with Blockwise Transformers', arXiv:2310.01889, 2023",
    rules={"tensor": over_tensor},
    demands={"tensor": Demand.SEQUENCE},
)
