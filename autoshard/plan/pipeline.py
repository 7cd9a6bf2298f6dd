"""Layers cut into stages: how many, on which mesh, and when each of them works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoshard.schedules import CIRCULAR, GPIPE, ONE_F_ONE_B, SCHEDULES

PIPE, DATA, TENSOR = ("pipe", "data", "tensor")


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
        chunks: how often a microbatch goes round, each time through other layers of every stage; 2
            or more for the circular schedule, 1 for the others.
        dealt: of 1F1B, whether what lies between the last layer and its way back (head and loss) is
            done for as many microbatches at once as there are stages, one on each: no stage does it
            for nothing, and half as many microbatches more are kept.
        layers: of a loop over as many layers as these add up to, how many each stage has; for every
            chunk, in the order of the layers. As even as can be where there are none.
    """

    stages: int
    microbatches: int
    data: int = 1
    tensor: int = 1
    schedule: str = GPIPE
    cast_once: bool = True
    chunks: int = 1
    dealt: bool = False
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.stages < 2 or min(self.microbatches, self.data, self.tensor, self.chunks) < 1:
            raise ValueError(
                f"a pipeline has 2 stages or more, and 1 or more of the rest: {self!r}"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if (self.schedule == CIRCULAR) != (self.chunks > 1):
            raise ValueError(f"several chunks make a circular schedule, and no other: {self!r}")
        if self.chunks > 1 and self.microbatches < self.stages:
            raise ValueError(f"a circular schedule needs a microbatch for every stage: {self!r}")
        if self.dealt and (self.schedule != ONE_F_ONE_B or self.microbatches % self.stages):
            raise ValueError(
                f"1F1B alone deals out, and microbatches are to be multiples of stages: {self!r}"
            )
        if self.layers and (len(self.layers) != self.stages * self.chunks or min(self.layers) < 1):
            raise ValueError(f"every chunk of every stage has 1 layer or more: {self!r}")

    def layers_of(self, length: int) -> tuple[int, ...]:
        """How many of `length` layers each chunk of each stage has, in the order of the layers.

        Where it is not said: as many as are needed at most, the last ones fewer.
        """
        if sum(self.layers) == length:
            return self.layers
        pieces = self.stages * self.chunks
        most = -(-length // pieces)
        return tuple(min(most, max(0, length - i * most)) for i in range(pieces))

    @property
    def sizes(self) -> dict[str, int]:
        """Of the mesh."""
        return {PIPE: self.stages, DATA: self.data, TENSOR: self.tensor}

    @property
    def ticks(self) -> int:
        """How often a stage may run, in one direction."""
        return self.microbatches * self.chunks + self.stages - 1

    @property
    def bubble(self) -> float:
        """The part of all ticks in which a stage has nothing to do."""
        return (self.stages - 1) / self.ticks

    @property
    def at_once(self) -> int:
        """Of how many microbatches a stage keeps at once what it needs on the way back.

        In lock step a microbatch is back at the first stage `stages - 1` ticks after it turned at
        the last; else all ticks are kept, idle ones too.
        """
        if self.schedule == ONE_F_ONE_B:
            return min(self.microbatches + 1, self.turns_at + self.stages)
        return -(-self.ticks // self.chunks)

    @property
    def turns_at(self) -> int:
        """The tick at which the first microbatch is on its way back at the last stage."""
        if self.schedule != ONE_F_ONE_B:
            return self.ticks
        return (2 * self.stages - 1) if self.dealt else self.stages - 1

    def timeline(self) -> Iterator[list[tuple[str, int]]]:
        """For every stage, what it does one after the other: ("F" or "B", microbatch), or ("", -1).

        All stages do one after the other at the same time: a column of all rows takes as long as
        the longest in it.
        """
        for stage in range(self.stages):
            yield [self._at(stage, *when) for when in self._columns()]

    def _columns(self) -> Iterator[tuple[str, int]]:
        """Which way microbatches go, and at which tick of that way."""
        ahead = self.turns_at
        yield from (("F", tick) for tick in range(ahead))
        for tick in range(ahead, self.ticks):
            yield from (("F", tick), ("B", tick - ahead))
        yield from (("B", tick) for tick in range(self.ticks - ahead, self.ticks))

    def _at(self, stage: int, way: str, tick: int) -> tuple[str, int]:
        number = tick - (stage if way == "F" else self.stages - 1 - stage)
        visits = self.microbatches * self.chunks
        if not 0 <= number < visits:
            return ("", -1)
        # All back, the last to come is the first to go.
        turned = way == "B" and self.schedule != ONE_F_ONE_B
        return (way, (visits - 1 - number if turned else number) % self.microbatches)

    def __str__(self) -> str:
        how = [] if self.schedule == GPIPE else [self.schedule]
        how += [f"{self.chunks} chunks"] if self.chunks > 1 else []
        how += ["dealt out"] if self.dealt else []
        said = f" ({', '.join(how)})" if how else ""
        return f"{self.stages} stages x {self.microbatches} microbatches{said}"
