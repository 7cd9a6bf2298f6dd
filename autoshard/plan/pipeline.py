"""Layers cut into stages: how many, on which mesh, and when each of them works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PIPE, DATA, TENSOR = ("pipe", "data", "tensor")


GPIPE, ONE_F_ONE_B = ("gpipe", "1f1b")
# In which order microbatches go through the stages -> in words.
SCHEDULES = {
    # Huang et al. 2019, arXiv:1811.06965.
    GPIPE: "all forward, then all back",
    # Narayanan et al. 2019, arXiv:1806.03377: fewer are kept for the way back at once.
    ONE_F_ONE_B: "one back for each that goes forward",
}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How layers are cut into stages, and the mesh for it.

    Attributes:
        stages: size of the axis `pipe`; 2 or more.
        microbatches: parts that each shard of the batch is taken in.
        data: size of the axis `data`, which splits the batch.
        tensor: size of the axis `tensor`, with which the plan does as it likes.
        schedule: in which order they go; a key of `SCHEDULES`.
        cast_once: whether weights that layers read in a narrower dtype are cast once per step, and
            not for every microbatch; a copy of them is held meanwhile.
    """

    stages: int
    microbatches: int
    data: int = 1
    tensor: int = 1
    schedule: str = GPIPE
    cast_once: bool = True

    def __post_init__(self) -> None:
        if self.stages < 2 or min(self.microbatches, self.data, self.tensor) < 1:
            raise ValueError(
                f"a pipeline has 2 stages or more, and 1 or more of the rest: {self!r}"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")

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
        if self.schedule == GPIPE:
            return self.ticks
        return min(self.microbatches + 1, 2 * self.stages - 1)

    def timeline(self) -> Iterator[list[tuple[str, int]]]:
        """For every stage, what it does one after the other: ("F" or "B", microbatch), or ("", -1).

        All stages do one after the other at the same time: a column of all rows takes as long as
        the longest in it.
        """
        for stage in range(self.stages):
            yield [self._at(stage, *when) for when in self._columns()]

    def _columns(self) -> Iterator[tuple[str, int]]:
        """Which way microbatches go, and at which tick of that way."""
        ahead = self.ticks if self.schedule == GPIPE else self.stages - 1
        yield from (("F", tick) for tick in range(ahead))
        for tick in range(ahead, self.ticks):
            yield from (("F", tick), ("B", tick - ahead))
        yield from (("B", tick) for tick in range(self.ticks - ahead, self.ticks))

    def _at(self, stage: int, way: str, tick: int) -> tuple[str, int]:
        number = tick - (stage if way == "F" else self.stages - 1 - stage)
        if not 0 <= number < self.microbatches:
            return ("", -1)
        # All back, the last to come is the first to go.
        turned = way == "B" and self.schedule == GPIPE
        return (way, self.microbatches - 1 - number if turned else number)

    def __str__(self) -> str:
        said = "" if self.schedule == GPIPE else f" ({self.schedule})"
        return f"{self.stages} stages x {self.microbatches} microbatches{said}"
