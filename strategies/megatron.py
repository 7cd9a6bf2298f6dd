"""Megatron tensor parallelism: weights are split where they are used, the batch over the rest.

Column- then row-parallel matmuls are not spelled out. Products with weights are split, in what are
no tokens, and the residual stream is whole on every device of the axis: they are what is left.
"""

from autoshard.search.strategy import Mask, Strategy, View


def over_tensor(view: View) -> Mask:
    """The residual stream is whole, products are split, and nothing is split in its tokens."""
    other = ~(view.on_batch | view.on_sequence)
    if view.product:
        return view.or_idle(view.on & other)
    return view.idle if view.residual else other


STRATEGY = Strategy(
    name="megatron",
    source="Shoeybi et al., 'Megatron-LM', arXiv:1909.08053, 2019, section 3",
    rules={"tensor": over_tensor},
)
