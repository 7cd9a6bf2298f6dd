"""FSDP x tensor parallelism: state split over both axes, gathered over `data` for use."""

from autoshard.search.strategy import Kind, Mask, NodeView, Strategy


def _allows(node: NodeView) -> Mask:
    if node.kind is Kind.STATE:
        split = node.axis_on["data"]
        return split if split.any() else node.any_option
    if node.kind is Kind.WEIGHT:
        return node.any_option
    data = node.axis_on_batch["data"] | ~node.axis_on["data"]
    return data & ~node.axis_on_batch["tensor"]


STRATEGY = Strategy(
    name="fsdp_tensor",
    source="Xu et al., 'GSPMD', arXiv:2105.04663, 2021, section 5.1 (2D finalized)",
    axes=frozenset({"data", "tensor"}),
    allows=_allows,
)
