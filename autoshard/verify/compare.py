"""What was predicted beside what the compiler made of it.

Collectives are matched tensor by tensor: same kind, same axes, same bytes. Compilers have their
ways, and those that change nothing worth a warning are the table `EQUIVALENCES`; whatever is
compiled and matches nothing planned is *unplanned*, whatever is planned and matches nothing
compiled is *missing*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoshard.plan.model import Collective, Plan
from autoshard.verify.collectives import Seen
from autoshard.verify.unplanned import Unplanned, explained, same_bytes, summing_to
from autoshard.verify.witness import Witness


@dataclass(frozen=True, slots=True)
class Equivalence:
    """A way of a compiler that is taken for what was planned.

    Attributes:
        why: told to the user where it was used.
        platforms: where it holds; () everywhere.
        planned, compiled: kinds; "" for the same kind on both sides.
        ratio: compiled bytes / planned bytes.
        counts_bytes: whether compiled bytes still say something about the plan.
    """

    why: str
    platforms: tuple[str, ...] = ()
    planned: str = ""
    compiled: str = ""
    ratio: float = 1.0
    counts_bytes: bool = True


EQUIVALENCES = (
    Equivalence("as planned"),
    # The sum of a gradient that the optimizer wants in pieces only.
    Equivalence("reduce-scatter where only a piece of the sum is read", ("gpu", "tpu"),
                "all-reduce", "reduce-scatter"),
    # What a convert widens, or a TPU's matmul reads in bfloat16 anyway, travels narrow.
    Equivalence("sent in the narrower type of the value's maker or reader", ratio=0.5),
    Equivalence("bfloat16 sent as float32", ("cpu",), ratio=2.0, counts_bytes=False),
    Equivalence(
        "all-reduce and slice for a reduce-scatter",
        ("cpu",), "reduce-scatter", "all-reduce", counts_bytes=False,
    ),
    Equivalence(
        "all-reduce and slice for a reduce-scatter, bfloat16 sent as float32",
        ("cpu",), "reduce-scatter", "all-reduce", ratio=2.0, counts_bytes=False,
    ),
)  # fmt: skip

# The TPU's compiler calls these collective matmuls: what is scattered (or gathered) over n devices
# passes from neighbour to neighbour in n pieces while the matmul works on others of them.
RING = Equivalence("a ring of permutes beside the matmul")
# Pieces of a ring beyond one from every device but the last: it closes with one or two.
_RING_ENDS = 2
_RINGS = frozenset({"reduce-scatter", "all-gather"})

JOINED = Equivalence("tensors laid end to end and sent as one")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of collective over the same axes: totals of a step."""

    kind: str
    axes: tuple[str, ...]
    planned_count: int
    count: int
    predicted_bytes: float
    compiled_bytes: float


@dataclass(frozen=True)
class Comparison:
    """Prediction and compilation of one plan, side by side.

    Attributes:
        plan, witness: what is compared.
        rows: per kind and axes, largest first.
        unplanned: compiled, not planned; largest first.
        missing: planned, not compiled; largest first.
        remarks: equivalences that were used, and how often.
        checks_bytes: False where the compiler's bytes say nothing about the plan's.
        tolerance: relative.
    """

    plan: Plan
    witness: Witness
    rows: tuple[Row, ...]
    unplanned: tuple[Unplanned, ...]
    missing: tuple[Collective, ...]
    remarks: tuple[tuple[str, int], ...]
    checks_bytes: bool
    tolerance: float

    @property
    def peak_error(self) -> float:
        """(predicted - compiled) / compiled."""
        compiled = self.witness.peak_bytes
        return (self.plan.prediction.peak_bytes - compiled) / compiled if compiled else 0.0

    @property
    def unplanned_bytes(self) -> float:
        return sum(u.seen.total_bytes for u in self.unplanned)

    @property
    def missing_bytes(self) -> float:
        return sum(c.bytes * c.count for c in self.missing)

    @property
    def communication_error(self) -> float:
        """Unplanned bytes as a share of all compiled, or missing ones as a share of all planned."""
        sides = (
            (self.unplanned_bytes, sum(r.compiled_bytes for r in self.rows)),
            (self.missing_bytes, sum(r.predicted_bytes for r in self.rows)),
        )
        return max(part / whole if whole else 0.0 for part, whole in sides)

    @property
    def agrees(self) -> bool:
        return max(abs(self.peak_error), self.communication_error) <= self.tolerance


def compare(plan: Plan, witness: Witness, tolerance: float = 0.1) -> Comparison:
    """Match what a plan expects with what its program was compiled to.

    Args:
        plan: with its predictions.
        witness: of this plan.
        tolerance: largest relative difference that still counts as agreement.
    """
    sizes = plan.mesh.sizes
    planned = [
        # A compiled program does not say how often it takes a branch.
        replace(c, count=c.come_by or c.count)
        for c in plan.collectives
        if c.bytes and any(sizes[a] > 1 for a in c.axes)
    ]
    planned = merge_axes(planned, witness.collectives)
    rules = [e for e in EQUIVALENCES if not e.platforms or witness.platform in e.platforms]
    matching = _Matching(planned, witness.collectives)
    for rule in rules:
        matching.apply(rule)
    matching.rings(sizes)
    matching.joined()
    missing, unplanned = matching.missing(), matching.unplanned()
    return Comparison(
        plan=plan,
        witness=witness,
        rows=_rows(planned, [*matching.stand_for(), *unplanned]),
        unplanned=explained(unplanned, missing),
        missing=tuple(sorted(missing, key=lambda c: -c.bytes * c.count)),
        remarks=tuple((r.why, n) for r, n in matching.used.items() if r.why != EQUIVALENCES[0].why),
        checks_bytes=all(rule.counts_bytes for rule in rules),
        tolerance=tolerance,
    )


class _Matching:
    """Pairs planned with compiled collectives, occurrence by occurrence."""

    def __init__(self, planned: Sequence[Collective], compiled: Sequence[Seen]) -> None:
        self.planned, self.compiled = planned, compiled
        self.open = [c.count for c in planned]
        self.unmatched = [s.count for s in compiled]
        self.pairs: list[tuple[Collective, Seen, int]] = []
        self.used: dict[Equivalence, int] = {}

    def apply(self, rule: Equivalence) -> None:
        """Match what this rule allows and no earlier one did, the largest first."""
        places: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for i, c in enumerate(self.planned):
            if self.open[i] and rule.planned in ("", c.kind):
                places.setdefault((rule.compiled or c.kind, c.axes), []).append(i)
        for j in sorted(range(len(self.compiled)), key=lambda j: -self.compiled[j].bytes):
            seen = self.compiled[j]
            for i in places.get((seen.kind, seen.axes), ()):
                times = min(self.open[i], self.unmatched[j])
                if (
                    times
                    and seen.whole
                    and same_bytes(self.planned[i].bytes * rule.ratio, seen.bytes)
                ):
                    self.open[i] -= times
                    self.unmatched[j] -= times
                    self.pairs.append((self.planned[i], seen, times))
                    self.used[rule] = self.used.get(rule, 0) + times

    def rings(self, sizes: Mapping[str, int]) -> None:
        """Match what a ring of permutes moves piece by piece."""
        ends: dict[tuple[tuple[str, ...], float], int] = {}
        for i, c in sorted(enumerate(self.planned), key=lambda item: -item[1].bytes):
            n = math.prod(sizes[a] for a in c.axes)
            pieces = [
                j
                for j, seen in enumerate(self.compiled)
                if (seen.kind, seen.axes) == ("permute", c.axes)
                and same_bytes(seen.bytes, c.bytes / n)
            ]
            times = min(self.open[i], sum(self.unmatched[j] for j in pieces) // (n - 1))
            if c.kind not in _RINGS or not times:
                continue
            self._take(pieces, times * (n - 1))
            self.open[i] -= times
            seen = self.compiled[pieces[0]]
            self.pairs.append((c, replace(seen, bytes=c.bytes), times))
            self.used[RING] = self.used.get(RING, 0) + times
            key = (c.axes, c.bytes / n)
            ends[key] = ends.get(key, 0) + _RING_ENDS * times
        for (axes, size), most in ends.items():
            left = [
                j
                for j, seen in enumerate(self.compiled)
                if (seen.kind, seen.axes) == ("permute", axes) and same_bytes(seen.bytes, size)
            ]
            self._take(left, most)

    def _take(self, compiled: Sequence[int], most: int) -> None:
        """Count occurrences as matched, in order."""
        for j in compiled:
            taken = min(self.unmatched[j], most)
            self.unmatched[j] -= taken
            most -= taken

    def joined(self) -> None:
        """Match tensors that a combiner laid end to end and sent as one."""
        for j in sorted(range(len(self.compiled)), key=lambda j: -self.compiled[j].bytes):
            seen, times = self.compiled[j], self.unmatched[j]
            if not times or not seen.whole:
                continue
            places = [
                i
                for i, c in enumerate(self.planned)
                if (c.kind, c.axes) == (seen.kind, seen.axes) and self.open[i] >= times
            ]
            chosen = summing_to(seen.bytes, [self.planned[i].bytes for i in places])
            for k in chosen:
                self.open[places[k]] -= times
                part = replace(seen, bytes=self.planned[places[k]].bytes)
                self.pairs.append((self.planned[places[k]], part, times))
            if chosen:
                self.unmatched[j] = 0
                self.used[JOINED] = self.used.get(JOINED, 0) + times

    def missing(self) -> list[Collective]:
        left = zip(self.planned, self.open, strict=True)
        return [replace(c, count=n) for c, n in left if n]

    def unplanned(self) -> list[Seen]:
        left = zip(self.compiled, self.unmatched, strict=True)
        return [replace(s, count=n) for s, n in left if n]

    def stand_for(self) -> list[Seen]:
        """What was matched, under the kind that was planned."""
        return [replace(seen, kind=c.kind, count=n) for c, seen, n in self.pairs]


def merge_axes(planned: Sequence[Collective], compiled: Sequence[Seen]) -> list[Collective]:
    """Join planned steps over single axes into one over several where that was compiled.

    Plans sum over `data` and then over `tensor`; a compiler may do both in one go, and lay several
    tensors end to end besides. Steps belong together when they move the same tensor at the same
    line for the same reason.
    """
    steps: dict[tuple[str, ...], list[Collective]] = {}
    for c in planned:
        steps.setdefault((c.kind, c.tensor, c.source, c.scope, c.reason), []).append(c)
    joined: list[Collective] = []
    wide = sorted((s for s in compiled if len(s.axes) > 1), key=lambda s: -s.bytes)
    for seen in wide:
        able = [
            (found, group)
            for group in steps.values()
            for found in _over_each(group, seen)
        ]  # fmt: skip
        for k in summing_to(seen.bytes, [found[0].bytes for found, _ in able]) or _alike(
            seen, able
        ):
            found, group = able[k]
            for c in found:
                group.remove(c)
            seconds, exposed_s = (
                sum(c.seconds for c in found),
                sum(c.exposed_s for c in found),
            )
            whole = replace(found[0], axes=seen.axes, seconds=seconds, exposed_s=exposed_s)
            joined.append(whole)
    return [*(c for group in steps.values() for c in group), *joined]


def _over_each(group: Sequence[Collective], seen: Seen) -> Iterator[list[Collective]]:
    """Sets of steps of a group, one for each axis of what was seen; the largest step first."""
    if not group or group[0].kind != seen.kind:
        return
    by_axis = [[c for c in group if c.axes == (a,)] for a in seen.axes]
    for several in zip(*by_axis, strict=False):
        if all(c.count == several[0].count for c in several):
            yield sorted(several, key=lambda c: -c.bytes)


def _alike(seen: Seen, able: Sequence[tuple[list[Collective], object]]) -> list[int]:
    return [k for k, (found, _) in enumerate(able) if same_bytes(found[0].bytes, seen.bytes)][:1]


def _rows(planned: Sequence[Collective], compiled: Sequence[Seen]) -> tuple[Row, ...]:
    keys = {(c.kind, c.axes) for c in planned} | {(s.kind, s.axes) for s in compiled}
    rows = [
        Row(
            kind=kind,
            axes=axes,
            planned_count=sum(c.count for c in planned if (c.kind, c.axes) == (kind, axes)),
            count=sum(s.count for s in compiled if (s.kind, s.axes) == (kind, axes)),
            predicted_bytes=sum(
                c.bytes * c.count for c in planned if (c.kind, c.axes) == (kind, axes)
            ),
            compiled_bytes=sum(s.total_bytes for s in compiled if (s.kind, s.axes) == (kind, axes)),
        )
        for kind, axes in sorted(keys)
    ]
    return tuple(sorted(rows, key=lambda r: -max(r.predicted_bytes, r.compiled_bytes)))
