"""Sequence parallelism: Megatron's products, and the residual stream split along the sequence.

What Megatron keeps whole between its pairs of matmuls (residual stream, norms, dropout) is split
over the same devices. Each all-reduce becomes a reduce-scatter after the row-parallel product and
an all-gather before the next column-parallel one: as many bytes, less memory and less arithmetic.
"""

from autoshard.search.strategy import Demand, Kind, Mask, Strategy, View
from autoshard.strategies import megatron


def over_tensor(view: View) -> Mask:
    """The residual stream is split along the sequence, products as Megatron's are."""
    if view.residual:
        return view.or_idle(view.on_sequence)
    return megatron.over_tensor(view) if view.kind is Kind.MATMUL else ~view.on_batch


STRATEGY = Strategy(
    name="sequence_parallel",
    source="Korthikanti et al., 'Reducing Activation Recomputation in Large Transformer Models',"
    " arXiv:2205.05198, 2022, section 4.2.2",
    rules={"tensor": over_tensor},
    demands={"tensor": Demand.SEQUENCE},
)
