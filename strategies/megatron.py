"""Megatron tensor parallelism: weights are split where they are used, the batch over the rest.

Column- then row-parallel matmuls are not spelled out: with the batch kept off the tensor axis and
weights not gathered over it, they are what is left to choose.
"""

from autoshard.search.strategy import Mask, NodeView, Strategy


def _allows(node: NodeView) -> Mask:
    return node.batch_over_data & ~node.axis_on_batch["tensor"]


STRATEGY = Strategy(
    name="megatron",
    source="Shoeybi et al., 'Megatron-LM', arXiv:1909.08053, 2019",
    needs=frozenset({"tensor"}),
    uses=frozenset({"data", "tensor"}),
    allows=_allows,
)
