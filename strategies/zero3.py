"""ZeRO-3 / FSDP: the batch is split, and so is all state at rest; weights are gathered for use."""

from autoshard.search.strategy import Kind, Mask, NodeView, Strategy


def _allows(node: NodeView) -> Mask:
    if node.kind is Kind.STATE:
        return node.state_over_data
    if node.kind is Kind.WEIGHT:
        return node.any_option
    return node.batch_over_data


STRATEGY = Strategy(
    name="zero3",
    source="Rajbhandari et al., 'ZeRO: Memory Optimizations Toward Training Trillion Parameter"
    " Models', arXiv:1910.02054, 2020; Zhao et al., 'PyTorch FSDP', arXiv:2304.11277, 2023",
    needs=frozenset({"data"}),
    uses=frozenset({"data"}),
    allows=_allows,
)
