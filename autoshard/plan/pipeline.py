"""Layers cut into stages: how many, on which mesh, and when each of them works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

PIPE, DATA, TENSOR = ("pipe", "data", "tensor")


class Schedule(Enum):
    """In which order microbatches go through the stages."""

    # All forward, and then all back (Huang et al. 2019, arXiv:1811.06965).
    GPIPE = "gpipe"
    # One back for each that goes forward, as soon as there is one (Narayanan et al. 2019,
    # arXiv:1806.03377): fewer are kept for the way back at once.
    ONE_F_ONE_B = "1f1b"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How layers are cut into stages, and the mesh for it.

    Attributes:
        stages: size of the axis `pipe`; 2 or more.
        microbatches: parts that each shard of the batch is taken in.
        data: size of the axis `data`, which splits the batch.
        tensor: size of the axis `tensor`, with which the plan does as it likes.
        schedule: in which order they go.
    """

    stages: int
    microbatches: int
    data: int = 1
    tensor: int = 1
    schedule: Schedule = Schedule.GPIPE

    def __post_init__(self) -> None:
        if self.stages < 2 or min(self.microbatches, self.data, self.tensor) < 1:
            raise ValueError(
                f"a pipeline has 2 stages or more, and 1 or more of the rest: {self!r}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Of the mesh."""
        return {PIPE: self.stages, DATA: self.data, TENSOR: self.tensor}

    @property
    def ticks(self) -> int:
        """How often a stage may run, in one direction."""
        return self.microbatches + self.stages - 1

    @property
    def bubble(self) -> float:
        """The part of all ticks in which a stage has nothing to do."""
        return (self.stages - 1) / self.ticks

    @property
    def at_once(self) -> int:
        """Of how many microbatches a stage keeps at once what it needs on the way back.

        In lock step a microbatch is back at the first stage `2 * (stages - 1)` ticks after it left.
        """
        if self.schedule is Schedule.GPIPE:
            return self.ticks
        return min(self.microbatches + 1, 2 * self.stages - 1)

    def timeline(self) -> Iterator[list[tuple[str, int]]]:
        """For every stage, what it does at each tick: ("F" or "B", microbatch), or ("", -1)."""
        for stage in range(self.stages):
            row = [("", -1)] * (2 * self.ticks)
            for m in range(self.microbatches):
                row[m + stage] = ("F", m)
                # Backward, the last microbatch comes first, and the last stage.
                row[2 * self.ticks - 1 - m - stage] = ("B", m)
            yield row

    def __str__(self) -> str:
        return f"{self.stages} stages x {self.microbatches} microbatches"
