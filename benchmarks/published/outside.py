"""What passes between stages beside the stream of microbatches.

A pipeline of the product begins and ends at every stage: what goes into its layers and comes out of
them is dealt out over all stages, once a step. In frameworks the first stage looks tokens up, the
last one has the head, and nothing of that travels; only where both have a copy of one embedding do
they add up their gradients of it when all microbatches are back (Shoeybi et al., arXiv:1909.08053,
section 3; Narayanan et al., arXiv:2104.04473; "tied layers" of DeepSpeed's pipelines).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from autoshard.cost.collectives import collective_time_s
from autoshard.machine.model import LogicalMesh
from autoshard.plan.model import Collective
from autoshard.plan.pipeline import PIPE, TENSOR
from benchmarks.published.decoder import Config


def outside_s(
    collectives: Sequence[Collective], mesh: LogicalMesh, config: Config, grad_dtype: str
) -> float:
    """What the product sends over stages once a step, less what frameworks do.

    Args:
        collectives: of the program.
        mesh: that they run on.
        config: of the model.
        grad_dtype: in which gradients are added up.
    """
    sent_s = sum(c.exposed_s for c in collectives if c.count == 1 and c.axes == (PIPE,))
    if not config.tied:
        return sent_s
    axes = {axis.name: axis for axis in mesh.axes}
    size = config.vocab * config.embed * jnp.dtype(grad_dtype).itemsize
    # Half is sent there and half comes back, and then once more: an all-reduce of two.
    return sent_s - collective_time_s("permute", axes[PIPE], size / axes[TENSOR].size)
