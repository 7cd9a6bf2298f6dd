"""Layers cut into stages as frameworks cut them, and what a schedule of unequal stages waits for.

A pipeline of the product has equal stages, and deals out what is not in a layer (the head, the
loss) over all of them. Frameworks leave the head to the last stage. All stages work at the pace of
the fullest one, after the first microbatch has come through all of them: with `T[i]` what stage
`i` takes for one microbatch and `m` microbatches, 1F1B and GPipe alike take

    sum(T) + (m - 1) * max(T)

(Narayanan et al., arXiv:2104.04473, section 2.2.1, for stages of unequal time). So what a step
waits for is a number of passes through as many layers as the fullest stage has; and, for every
microbatch if that is the last stage and else for one, the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from autoshard.plan.pipeline import Pipeline

_KNOWN = frozenset(field.name for field in fields(Pipeline))


@dataclass(frozen=True)
class Stages:
    """A pipeline as a framework runs it.

    Attributes:
        pipeline: as the product plans it.
        layers: of the stage that the others wait for.
        passes: how often a step waits for so many layers, in one direction.
        waits_for_head: whether it is the last stage, so that a step waits for the head of every
            microbatch.
        chunks: pieces of layers that lie apart on each device (interleaved schedule).
    """

    pipeline: Pipeline
    layers: int
    passes: float
    waits_for_head: bool
    chunks: int = 1

    @property
    def is_as_run(self) -> bool:
        """Whether the product's schedule is the framework's."""
        return self.chunks == getattr(self.pipeline, "chunks", 1)


# (layers, stages, the head's share of a layer) -> layers of each stage
Cut = Callable[[int, int, float], Sequence[int]]


def _evenly(layers: int, stages: int, head: float) -> list[int]:
    """As many layers on every stage, the fuller ones first."""
    few, more = divmod(layers, stages)
    return [few + (stage < more) for stage in range(stages)]


def _by_weights(layers: int, stages: int, head: float) -> list[int]:
    """A stage takes layers until it is past its share of all weights, the head's among them."""
    found = [0] * stages
    stage = 0
    for n in range(1, layers + 1):
        found[stage] += 1
        if n > (layers + head) * (stage + 1) / stages:
            stage += 1
    return found


CUTS: dict[str, Cut] = {"evenly": _evenly, "by weights": _by_weights}


def stages_of(
    cut: str, layers: int, head: float, pipeline: dict[str, int], *, schedule: str, chunks: int
) -> Stages:
    """A pipeline's stages.

    Args:
        cut: a key of `CUTS`.
        layers: of the model.
        head: weights of the head, over those of a layer.
        pipeline: stages, microbatches, data and tensor.
        schedule, chunks: as the framework runs it; used as far as the product knows them.
    """
    asked: dict[str, Any] = {"schedule": schedule, "chunks": chunks}
    made = Pipeline(**pipeline, **{k: v for k, v in asked.items() if k in _KNOWN})
    own = CUTS[cut](layers, made.stages, head)
    load = [*own[:-1], own[-1] + head]
    fullest = max(range(made.stages), key=lambda stage: (load[stage], stage))
    # A stage with the head alone waits for itself only; the layers of others come first.
    fullest = fullest if own[fullest] else max(range(made.stages), key=lambda stage: own[stage])
    return Stages(
        pipeline=made,
        layers=own[fullest],
        passes=made.microbatches - 1 + layers / own[fullest],
        waits_for_head=fullest == made.stages - 1,
        chunks=chunks,
    )
