"""Data parallelism: the batch is split, every device holds all state."""

from autoshard.search.strategy import Mask, NodeView, Strategy


def _allows(node: NodeView) -> Mask:
    return node.batch_over_data


STRATEGY = Strategy(
    name="data_parallel",
    source="Krizhevsky, 'One weird trick for parallelizing CNNs', arXiv:1404.5997, 2014",
    needs=frozenset({"data"}),
    uses=frozenset({"data"}),
    allows=_allows,
)
