"""One step in several forms: what its backward loops compute again, in so many microbatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoshard import _compat
from autoshard.plan.pipeline import Pipeline
from autoshard.trace import keeping
from autoshard.trace.function import Traced, rewritten
from autoshard.trace.microbatch import batch_size, in_microbatches
from autoshard.trace.pipeline.layers import Layers, layers_of
from autoshard.trace.pipeline.step import pipelined
from autoshard.trace.remat import rematerialised

AS_WRITTEN = "as written"
# Result, and a line for each loop that was changed.
Rewrite = Callable[[_compat.ClosedJaxpr], tuple[_compat.ClosedJaxpr, tuple[str, ...]]]


def _none(closed: _compat.ClosedJaxpr) -> tuple[_compat.ClosedJaxpr, tuple[str, ...]]:
    found, done = keeping.keeping(closed, keeping.everything)
    return found, tuple(map(str, done))


def _full(closed: _compat.ClosedJaxpr) -> tuple[_compat.ClosedJaxpr, tuple[str, ...]]:
    found, done = rematerialised(closed)
    return found, tuple(map(str, done))


def _selective(closed: _compat.ClosedJaxpr) -> tuple[_compat.ClosedJaxpr, tuple[str, ...]]:
    again, less = _full(closed)
    found, more = keeping.keeping(again, keeping.products)
    return (found, (*less, *map(str, more))) if more else (closed, ())


# What the backward loops of scanned layers compute again -> how a step is made to. In the order of
# how much: "selective" is Korthikanti et al. 2022's word (arXiv:2205.05198).
REMATS: dict[str, Rewrite] = {
    "none": _none,
    "selective": _selective,
    AS_WRITTEN: lambda closed: (closed, ()),
    "full": _full,
}
NOTHING_TO_CHANGE = {
    "none": "scanned layers compute nothing again in the backward pass as it is",
    "selective": (
        "nothing was rematerialised: no scanned layers keep, or compute again, what could be told"
        " apart"
    ),
    "full": (
        "nothing was rematerialised: no scanned layers keep values for the backward pass that could"
        " be computed again"
    ),
}


@dataclass(frozen=True)
class Variant:
    """One form of a step.

    Attributes:
        microbatches: how many parts the batch is taken in, one after the other.
        remat: what backward loops of scanned layers compute again; a key of `REMATS`.
        pipeline: how its layers are cut into stages, if they are.
    """

    microbatches: int = 1
    remat: str = AS_WRITTEN
    pipeline: Pipeline | None = None

    def __str__(self) -> str:
        parts = [str(self.pipeline)] if self.pipeline else []
        parts += [f"{self.microbatches} microbatches"] if self.microbatches > 1 else []
        remat = [f"remat {self.remat}"] if self.remat != AS_WRITTEN else []
        return ", ".join([*parts, *remat]) or AS_WRITTEN


PLAIN = Variant()


class Variants:
    """The forms of a traced step, each made when it is first asked for."""

    def __init__(self, plain: Traced) -> None:
        self.plain = plain
        self._made: dict[Variant, Traced] = {PLAIN: plain}
        self._layers: dict[str, Layers] = {}

    def of(self, variant: Variant) -> Traced:
        """The step in one form.

        Raises:
            MicrobatchError: it cannot be taken in so many microbatches.
            PipelineError: its layers cannot be cut so.
        """
        if variant not in self._made:
            self._made[variant] = self._make(variant)
        return self._made[variant]

    def layers(self, remat: str = AS_WRITTEN) -> Layers:
        """The loops that can be cut into stages.

        Raises:
            PipelineError: there are none.
        """
        if remat not in self._layers:
            self._layers[remat] = layers_of(self.plain, lambda closed: REMATS[remat](closed)[0])
        return self._layers[remat]

    def _make(self, variant: Variant) -> Traced:
        if variant.pipeline is not None:
            return pipelined(self.layers(variant.remat), variant.pipeline)
        if variant.remat == AS_WRITTEN:
            return in_microbatches(self.plain, variant.microbatches)
        whole = self.of(Variant(variant.microbatches))
        closed, done = REMATS[variant.remat](whole.closed)
        return rewritten(whole, closed, done) if done else whole

    def counts(self) -> tuple[int, ...]:
        """Powers of two, from 2, that divide the batch into microbatches.

        Raises:
            MicrobatchError: there is no batch.
        """
        size = batch_size(self.plain)
        powers = (2**i for i in range(1, size.bit_length()))
        return tuple(n for n in powers if size % n == 0 and size // n >= 2)

    def changes(self, remat: str) -> bool:
        """Whether computing more or less again changes anything."""
        return self.of(Variant(remat=remat)) is not self.plain

    def remats(self) -> tuple[str, ...]:
        """The forms that differ, in the order of how much they compute again."""
        return tuple(word for word in REMATS if word == AS_WRITTEN or self.changes(word))
