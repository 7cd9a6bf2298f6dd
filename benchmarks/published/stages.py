"""Layers cut into stages as frameworks cut them, and what a schedule of unequal stages waits for.

A pipeline of the product has equal stages, and deals out what is not in a layer (the head, the
loss) over all of them. Frameworks leave the head to the last stage. All stages work at the pace of
the fullest one, after the first microbatch has come through all of them: with `T[i]` what stage
`i` takes for one microbatch and `m` microbatches, 1F1B and GPipe alike take

    sum(T) + (m - 1) * max(T)

(Narayanan et al., arXiv:2104.04473, section 2.2.1, for stages of unequal time). So what a step
waits for is a number of passes through as many layers as the fullest stage has; and the head, of
every microbatch if that stage has it and else of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoshard.plan.pipeline import Pipeline


@dataclass(frozen=True)
class Stages:
    """A pipeline as a framework runs it.

    Attributes:
        pipeline: as the product plans it.
        layers: of the stage that the others wait for; of another one if that has the head alone.
        passes: how often a step waits for so many layers, in one direction.
        waits_for_head: whether that stage has the head, so that a step waits for the head of every
            microbatch.
        schedule, chunks: as the framework runs it; pieces of layers that lie apart on each device
            are the chunks of an interleaved schedule.
    """

    pipeline: Pipeline
    layers: int
    passes: float
    waits_for_head: bool
    schedule: str
    chunks: int = 1

    @property
    def takes_as_long(self) -> bool:
        """Whether the product's schedule takes the framework's time: equal but for the chunks."""
        return self.chunks == self.pipeline.chunks

    @property
    def keeps_as_much(self) -> bool:
        """Whether it also keeps activations of as many microbatches."""
        return self.takes_as_long and self.pipeline.schedule == self.schedule


@dataclass(frozen=True)
class Cut:
    """Layers of every stage, and which of the stages has the head."""

    layers: tuple[int, ...]
    head_at: int


def _evenly(layers: int, stages: int, weights: int, head: int) -> Cut:
    """As many layers on every stage, the fuller ones first; the head on the last."""
    few, more = divmod(layers, stages)
    return Cut(tuple(few + (stage < more) for stage in range(stages)), stages - 1)


def _by_weights(layers: int, stages: int, weights: int, head: int) -> Cut:
    """A stage takes layers, and then the head, until it is past its share of all weights."""
    found = [0] * stages
    stage = 0
    for n in range(1, layers + 1):
        found[stage] += 1
        if n * weights * stages > (layers * weights + head) * (stage + 1):
            stage += 1
    return Cut(tuple(found), stage)


# (layers, stages, weights of a layer, weights of the head) -> who has what
CUTS: dict[str, Callable[[int, int, int, int], Cut]] = {
    "evenly": _evenly,
    "by weights": _by_weights,
}


def stages_of(
    cut: str,
    layers: int,
    weights: int,
    head: int,
    pipeline: dict[str, int],
    *,
    schedule: str,
    chunks: int,
) -> Stages:
    """A pipeline's stages.

    Args:
        cut: a key of `CUTS`.
        layers: of the model.
        weights, head: how many a layer has, and the head.
        pipeline: stages, microbatches, data and tensor.
        schedule, chunks: as the framework runs it.
    """
    # Whatever the framework's, ours is GPipe until prices of our own 1F1B and circular schedules
    # were held against these runs: with the head in its ticks, what `outside.py` corrects is not
    # outside any more.
    made = Pipeline(**pipeline)
    found = CUTS[cut](layers, made.stages, weights, head)
    load = [
        own * weights + head * (stage == found.head_at) for stage, own in enumerate(found.layers)
    ]
    fullest = max(range(made.stages), key=lambda stage: (load[stage], stage == found.head_at))
    waited_for = found.layers[fullest]
    each = waited_for or max(found.layers)  # a stage may have the head alone
    return Stages(
        pipeline=made,
        layers=each,
        passes=(layers + (made.microbatches - 1) * waited_for) / each,
        waits_for_head=fullest == found.head_at,
        schedule=schedule,
        chunks=chunks,
    )
