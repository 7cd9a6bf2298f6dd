"""What many pairs say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoshard.verify.compare import Comparison

# "Within": the part by which bytes sent may differ.
NEAR = 0.05


@dataclass(frozen=True)
class Summary:
    """Errors are (predicted - compiled) / compiled.

    Attributes:
        pairs: how many.
        memory_median: of the absolute errors of the peaks.
        memory_under, memory_over: the most negative and the most positive of them.
        sent_near: share of the pairs whose bytes sent differ by `NEAR` at most.
    """

    pairs: int
    memory_median: float
    memory_under: float
    memory_over: float
    sent_near: float


def sent(found: Comparison) -> tuple[float, float]:
    """Bytes that one device's collectives handle in a step: (predicted, compiled)."""
    return (
        sum(r.predicted_bytes for r in found.rows),
        sum(r.compiled_bytes for r in found.rows),
    )


def sent_error(found: Comparison) -> float:
    """(predicted - compiled) / compiled, of the bytes that all collectives handle."""
    predicted, compiled = sent(found)
    if compiled:
        return predicted / compiled - 1
    return float("inf") if predicted else 0.0


def summary(found: Sequence[Comparison]) -> Summary:
    """Of one pair at least."""
    errors = [c.peak_error for c in found]
    near = [abs(sent_error(c)) <= NEAR for c in found]
    return Summary(
        pairs=len(found),
        memory_median=median(abs(e) for e in errors),
        memory_under=min(errors),
        memory_over=max(errors),
        sent_near=sum(near) / len(near),
    )
