"""What a plan with stages sends over `pipe`, by what it is for: nothing of it is there without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from autoshard.plan.model import Collective
from autoshard.plan.pipeline import PIPE
from autoshard.verify.compare import Comparison

_AS_WRITTEN = "as the program says"

# What for -> which collectives over `pipe`; the first that fits.
PURPOSES: dict[str, Callable[[Collective], bool]] = {
    "handed on": lambda c: c.kind == "permute" and c.reason == _AS_WRITTEN,
    "dealt out": lambda c: c.reason == _AS_WRITTEN,  # what the last stage made, to all stages
    "gradients": lambda c: c.reason == "gradient summed",
    "parameters": lambda c: c.reason.startswith("parameter"),  # that rest on `pipe`, too
    "outside": lambda c: True,  # the stream, head and loss, with the batch on `pipe`
}


class Amount(TypedDict):
    """How many tensors are sent in a step, and their bytes on one device."""

    count: int
    bytes: float


class OverPipe(TypedDict):
    """All that is sent over `pipe`.

    Attributes:
        planned: by what for.
        missing: planned, and not compiled.
        unplanned: compiled, and not planned; over `pipe`, and
        unplanned_elsewhere: over other axes alone.
    """

    planned: dict[str, Amount]
    missing: Amount
    unplanned: Amount
    unplanned_elsewhere: Amount


def over_pipe(found: Comparison) -> OverPipe:
    """Of one pair."""
    planned: dict[str, Amount] = {name: _nothing() for name in PURPOSES}
    for c in found.plan.collectives:
        if PIPE in c.axes:
            name = next(name for name, fits in PURPOSES.items() if fits(c))
            _add(planned[name], c.count, c.bytes)
    missing, unplanned, elsewhere = _nothing(), _nothing(), _nothing()
    for c in found.missing:
        if PIPE in c.axes:
            _add(missing, c.count, c.bytes)
    for u in found.unplanned:
        over = unplanned if PIPE in u.seen.axes else elsewhere
        _add(over, u.seen.count, u.seen.bytes)
    return OverPipe(
        planned=planned, missing=missing, unplanned=unplanned, unplanned_elsewhere=elsewhere
    )


def _nothing() -> Amount:
    return Amount(count=0, bytes=0.0)


def _add(amount: Amount, count: int, size_bytes: float) -> None:
    amount["count"] += count
    amount["bytes"] += count * size_bytes
