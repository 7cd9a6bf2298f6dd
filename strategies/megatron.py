"""Megatron tensor parallelism: weights are split where they are used, the batch over the rest.

Column- then row-parallel matmuls are not spelled out: with the batch and the sequence kept off the
tensor axis, and the residual stream whole on every device of it, they are what is left to choose.
"""

from autoshard.search.strategy import Mask, Strategy, View


def over_tensor(view: View) -> Mask:
    """The residual stream is whole, everything else split in what are no tokens."""
    return view.idle if view.residual else ~(view.on_batch | view.on_sequence)


STRATEGY = Strategy(
    name="megatron",
    source="Shoeybi et al., 'Megatron-LM', arXiv:1909.08053, 2019, section 3",
    rules={"tensor": over_tensor},
)
