"""What a pipeline does outside of its stages, as frameworks do it.

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
from autoshard.machine.model import Chip, LogicalMesh
from autoshard.plan.model import Collective
from autoshard.plan.pipeline import PIPE, TENSOR
from autoshard.search.answer import Answer
from autoshard.search.kinds import WITHOUT_BATCH
from benchmarks.published.decoder import Config
from benchmarks.published.stages import Stages
from benchmarks.published.training import Recipe


def between_s(
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


def added_up_s(chip: Chip, config: Config, recipe: Recipe, stages: Stages) -> float:
    """What adding up the head's gradients of one microbatch after the other takes.

    The priced program makes them of all microbatches in one product; frameworks read each and add
    it to what they have (`main_grad` of Megatron-LM, `get_fp32_accum_hook` of nanotron).

    Args:
        chip: that adds.
        config: of the model.
        recipe: whose dtypes count.
        stages: nothing is waited for where another stage is fuller.
    """
    if not stages.waits_for_head:
        return 0.0
    pipeline = stages.pipeline
    each = jnp.dtype(recipe.compute_dtype).itemsize + 2 * jnp.dtype(recipe.grad_dtype).itemsize
    moved = (pipeline.microbatches - 1) * config.vocab * config.embed / pipeline.tensor * each
    return moved / (chip.memory_bytes_per_s * chip.memory_efficiency)


def unseen_s(answer: Answer, collectives: Sequence[Collective], stages: Stages) -> float:
    """What the head takes while the step waits for another stage.

    The priced program has the head of every microbatch. Where the last stage is not the fullest,
    all but one of them hide behind the layers of another.
    """
    if stages.waits_for_head:
        return 0.0
    numbers, kinds = answer.numbers, answer.numbers.analysis.anatomy.kinds
    head = {
        node.id
        for node in answer.graph.nodes
        if kinds[node.id] not in WITHOUT_BATCH
        and all(answer.program.ops[o].region == 0 for o in node.ops)
    }
    terms, own_s = numbers.terms, numbers.prices.own_s
    head_s = sum(own_s[form][answer.choice[node]] for node, form in terms.own if node in head)
    head_s += sum(c.exposed_s for c in collectives if c.count == 1 and c.axes == (TENSOR,))
    return float(head_s) * (1 - 1 / stages.pipeline.microbatches)
