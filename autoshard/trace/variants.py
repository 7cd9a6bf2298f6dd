"""One step in several forms: with layers rematerialised or not, in so many microbatches."""

from __future__ import annotations

from dataclasses import dataclass

from autoshard.trace.function import Traced, rewritten
from autoshard.trace.microbatch import batch_size, in_microbatches
from autoshard.trace.remat import rematerialised

NOTHING_TO_REMATERIALISE = (
    "nothing was rematerialised: no scanned layers keep values for the backward pass that could be"
    " computed again"
)


@dataclass(frozen=True, order=True)
class Variant:
    """One form of a step.

    Attributes:
        microbatches: how many parts the batch is taken in, one after the other.
        remat: whether the backward loops of scanned layers compute residuals again.
    """

    microbatches: int = 1
    remat: bool = False

    def __str__(self) -> str:
        parts = [f"{self.microbatches} microbatches"] if self.microbatches > 1 else []
        return ", ".join([*parts, *(["remat"] if self.remat else [])]) or "as written"


PLAIN = Variant()


class Variants:
    """The forms of a traced step, each made when it is first asked for."""

    def __init__(self, plain: Traced) -> None:
        self.plain = plain
        self._made: dict[Variant, Traced] = {PLAIN: plain}

    def of(self, variant: Variant) -> Traced:
        """The step in one form.

        Raises:
            MicrobatchError: it cannot be taken in so many microbatches.
        """
        if variant not in self._made:
            self._made[variant] = self._make(variant)
        return self._made[variant]

    def _make(self, variant: Variant) -> Traced:
        if not variant.remat:
            return in_microbatches(self.plain, variant.microbatches)
        whole = self.of(Variant(variant.microbatches))
        closed, done = rematerialised(whole.closed)
        if not done:
            return whole
        return rewritten(whole, closed, tuple(map(str, done)))

    def counts(self) -> tuple[int, ...]:
        """Powers of two, from 2, that divide the batch into microbatches.

        Raises:
            MicrobatchError: there is no batch.
        """
        size = batch_size(self.plain)
        powers = (2**i for i in range(1, size.bit_length()))
        return tuple(n for n in powers if size % n == 0 and size // n >= 2)

    def rematerialises(self, microbatches: int = 1) -> bool:
        """Whether rematerialising changes anything."""
        plain = Variant(microbatches)
        return self.of(Variant(microbatches, remat=True)) is not self.of(plain)
