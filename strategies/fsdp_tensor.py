"""FSDP x tensor parallelism: state split over both axes, gathered over `data` for use."""

from autoshard.search.strategy import Kind, Mask, NodeView, Strategy


def _allows(node: NodeView) -> Mask:
    if node.kind is Kind.STATE:
        return node.state_over_data
    if node.kind is Kind.WEIGHT:
        return node.any_option
    return node.batch_over_data & ~node.axis_on_batch["tensor"]


STRATEGY = Strategy(
    name="fsdp_tensor",
    source="Xu et al., 'GSPMD', arXiv:2105.04663, 2021, section 5.1 (2D finalized)",
    needs=frozenset({"data", "tensor"}),
    uses=frozenset({"data", "tensor"}),
    allows=_allows,
)
