"""FSDP x tensor parallelism: state split over both axes, gathered over `data` for use.

What Megatron keeps whole over `tensor` may be split there too, along whatever is no batch.
"""

from autoshard.search.strategy import Mask, Strategy, View
from autoshard.strategies.zero3 import over_data


def over_tensor(view: View) -> Mask:
    """Anything but the batch may be split."""
    return ~view.on_batch


STRATEGY = Strategy(
    name="fsdp_tensor",
    source="Xu et al., 'GSPMD', arXiv:2105.04663, 2021, section 5.1 (2D finalized)",
    rules={"data": over_data, "tensor": over_tensor},
)
