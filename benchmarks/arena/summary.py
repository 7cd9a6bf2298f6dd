"""What many bouts say together, and a bout as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.arena.judge import geometric_mean

AUTO = "auto"
# Auto, with the form of the step left open: rematerialised or not, in how many microbatches.
FORMS = "auto, any form"
XLA = "XLA AUTO"


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contender in one bout.

    Attributes:
        who: "auto", "auto, any form", an expert strategy, or a peer and its settings.
        mesh: sizes of the axes.
        planning_s: wall clock from function to plan; of peers, compiling included.
        peak_bytes: compiled, of one device.
        fits: whether that is within the chip's memory.
        step_s: estimated by the judge.
        core_s, copies_s, links_s: its parts.
        collectives: kind -> (times, bytes, seconds on the links).
        exposed_s: kind -> seconds that the core waits for it.
        remark: why there are no numbers, or what else to know.
    """

    who: str
    mesh: str = ""
    planning_s: float | None = None
    peak_bytes: int | None = None
    fits: bool = False
    step_s: float | None = None
    core_s: float | None = None
    copies_s: float | None = None
    links_s: float | None = None
    collectives: dict[str, tuple[float, float, float]] = {}
    exposed_s: dict[str, float] = {}
    remark: str = ""


class Bout(msgspec.Struct, frozen=True):
    """All contenders of one case."""

    case: str
    on: str
    batch_size: int
    rows: tuple[Row, ...]

    def best(self, kind: str) -> Row | None:
        """The quickest that fits: of "auto", "forms", "expert", "xla" or "peer"."""
        able = [r for r in self.rows if r.fits and r.step_s is not None and kind_of(r.who) == kind]
        return min(able, key=lambda r: r.step_s or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """Auto's step over that of the best other; None where one side has none that fits."""
        return self.ratio_of(AUTO)

    def ratio_of(self, kind: str) -> float | None:
        """The same for "auto" or "forms"."""
        auto = self.best(kind)
        others = [
            r for r in (self.best("expert"), self.best("xla"), self.best("peer")) if r is not None
        ]
        if auto is None or not others:
            return None
        return (auto.step_s or 0.0) / min(r.step_s or 0.0 for r in others)


_OWN = {AUTO: AUTO, FORMS: "forms"}
_PEERS = frozenset({"parallax"})


def kind_of(who: str) -> str:
    """ "auto", "forms", "xla", "peer" or "expert"."""
    if who in _OWN:
        return _OWN[who]
    if who in _PEERS:
        return "peer"
    return "xla" if who.startswith(XLA) else "expert"


class Summary(msgspec.Struct, frozen=True):
    """Over all bouts that have a ratio.

    Attributes:
        bouts: how many.
        geometric_mean: of auto / best of experts and XLA; below 1 auto is quicker.
        worst, worst_case: the largest such ratio, and where.
        forms_geometric_mean: the same of auto with the form of the step left open.
        against_expert, against_xla: geometric means against the best of either alone.
        over_memory: "who in case" of what was compiled and does not fit.
    """

    bouts: int
    geometric_mean: float
    worst: float
    worst_case: str
    forms_geometric_mean: float
    against_expert: float
    against_xla: float
    over_memory: tuple[str, ...]


def summary(bouts: Sequence[Bout]) -> Summary:
    """Of any number of bouts; means of none are 1."""
    rated = [(b.ratio, b) for b in bouts if b.ratio is not None]
    worst = max(rated, key=lambda pair: pair[0], default=None)
    return Summary(
        bouts=len(rated),
        geometric_mean=geometric_mean([ratio for ratio, _ in rated]),
        worst=worst[0] if worst else 1.0,
        worst_case=_title(worst[1]) if worst else "",
        forms_geometric_mean=geometric_mean(
            [ratio for b in bouts if (ratio := b.ratio_of("forms")) is not None]
        ),
        against_expert=_against(bouts, "expert"),
        against_xla=_against(bouts, "xla"),
        over_memory=tuple(
            f"{r.who} ({r.mesh}) in {_title(b)}"
            for b in bouts
            for r in b.rows
            if r.peak_bytes is not None and not r.fits
        ),
    )


def _against(bouts: Sequence[Bout], kind: str) -> float:
    pairs = [(b.best(AUTO), b.best(kind)) for b in bouts]
    return geometric_mean([(a.step_s or 0) / (o.step_s or 1) for a, o in pairs if a and o])


def _title(bout: Bout) -> str:
    return f"{bout.case}, batch {bout.batch_size} on {bout.on}"


HEAD = (
    f"{'who':<20} {'mesh':<20} {'planning':>9} {'peak':>10} {'fits':>5} {'step':>9}"
    f" {'core':>9} {'copies':>8} {'links':>8} {'to auto':>8}"
)


def table(bout: Bout) -> str:
    """A bout as text: estimated milliseconds, compiled memory."""
    auto = bout.best(AUTO)
    return "\n".join(
        [_title(bout), HEAD, *(line(row, auto.step_s if auto else None) for row in bout.rows)]
    )


def line(row: Row, auto_s: float | None) -> str:
    """One contender as text."""
    start = f"{row.who:<20} {row.mesh:<20} {_number(row.planning_s, 1, ' s'):>9}"
    if row.step_s is None or row.peak_bytes is None:
        return f"{start}   {row.remark}"
    ratio = f"{row.step_s / auto_s:.3f}" if auto_s else ""
    return (
        f"{start} {row.peak_bytes / 2**30:>6.2f} GiB {'yes' if row.fits else 'NO':>5}"
        f" {_ms(row.step_s):>9} {_ms(row.core_s):>9} {_ms(row.copies_s):>8} {_ms(row.links_s):>8}"
        f" {ratio:>8}"
    )


def told(s: Summary) -> str:
    """A summary as text."""
    lines = [
        f"{s.bouts} bouts: auto / best of experts and XLA AUTO: geometric mean"
        f" {s.geometric_mean:.3f}, worst {s.worst:.3f} ({s.worst_case})",
        f"    against the best expert alone {s.against_expert:.3f},"
        f" against XLA AUTO alone {s.against_xla:.3f}",
        f"    with the form of the step left open {s.forms_geometric_mean:.3f}",
    ]
    return "\n".join([*lines, *(f"    over memory: {who}" for who in s.over_memory)])


def _ms(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds * 1e3, 1, " ms")


def _number(value: float | None, digits: int, unit: str) -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


class Results(msgspec.Struct, frozen=True):
    """What a file of results holds.

    Attributes:
        commands: that made it, each the bouts that it names.
        compilers: packages and versions, by who used them.
        summary: of all bouts.
        bouts: in the order in which they were fought.
    """

    commands: tuple[str, ...]
    compilers: dict[str, Any]
    summary: Summary
    bouts: tuple[Bout, ...]

    def beside(self, before: Results) -> Results:
        """These results, and bouts of other cases that were fought before.

        Raises:
            ValueError: other compilers judged those.
        """
        if before.compilers != self.compilers:
            raise ValueError(
                f"the results that stand there were compiled by {before.compilers}, these by"
                f" {self.compilers}: write them to another file"
            )
        fought = {(bout.case, bout.on, bout.batch_size) for bout in self.bouts}
        stay = [b for b in before.bouts if (b.case, b.on, b.batch_size) not in fought]
        bouts = (*stay, *self.bouts)
        commands = tuple(dict.fromkeys((*before.commands, *self.commands)))
        return Results(commands, self.compilers, summary(bouts), bouts)
