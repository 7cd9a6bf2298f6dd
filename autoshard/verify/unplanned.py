"""What is compiled and nobody planned, each with the likeliest reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.plan.model import Collective
from autoshard.verify.collectives import KINDS, Seen

# Bytes may differ by this much: the TPU pads what it scatters to whole tiles.
_SAME = 0.05


@dataclass(frozen=True, slots=True)
class Unplanned:
    """What the compiler sends and nobody planned.

    Attributes:
        seen: it.
        why: the likeliest reason, for people.
        instead: the planned collective that it probably stands for; "" if for none.
    """

    seen: Seen
    why: str
    instead: str = ""


def same_bytes(one: float, other: float) -> bool:
    """Whether two numbers of bytes are those of one tensor."""
    return abs(one - other) <= _SAME * max(one, other)


def summing_to(total: float, parts: Sequence[float], most: int = 1 << 14) -> list[int]:
    """Indices of parts that add up to a total exactly; [] where none do, or the search is long."""
    reached: dict[float, tuple[int, ...]] = {0.0: ()}
    for k, part in enumerate(parts):
        for at, chosen in list(reached.items()):
            new = at + part
            if new <= total and new not in reached:
                reached[new] = (*chosen, k)
                if new == total:
                    return list(reached[new])
        if len(reached) > most:
            return []
    return []


def explained(unplanned: Sequence[Seen], missing: Sequence[Collective]) -> tuple[Unplanned, ...]:
    """Each unplanned collective with its reason, largest first.

    Args:
        unplanned: compiled, and matched with nothing planned.
        missing: planned, and matched with nothing compiled.
    """
    left = list(missing)
    return tuple(
        _in_place_of_one(seen, left, _ALIKE)
        or _several_as_one(seen, left)
        or _in_place_of_one(seen, left, _NEAR)
        or _by_itself(seen)
        for seen in sorted(unplanned, key=lambda s: -s.total_bytes)
    )


_Likely = Callable[[Seen, Collective], bool]


def _in_place_of_one(
    seen: Seen, left: list[Collective], ways: Sequence[_Likely]
) -> Unplanned | None:
    for likely in ways:
        found = next((c for c in left if likely(seen, c)), None)
        if found is not None:
            left.remove(found)
            what = f"{found.kind} over {'+'.join(found.axes)} of {found.tensor}"
            times = f" x{found.count}" if found.count > 1 else ""
            instead = f"{what}{times} at {os.path.basename(found.source)} ({found.reason})"
            return Unplanned(seen, f"for {instead}", instead)
    return None


_ALIKE: tuple[_Likely, ...] = (
    lambda s, c: s.axes == c.axes and s.kind == c.kind and same_bytes(s.bytes, 2 * c.bytes),
    lambda s, c: s.axes == c.axes and same_bytes(s.bytes, c.bytes),
    lambda s, c: s.kind == c.kind and same_bytes(s.bytes, c.bytes),
)
_NEAR: tuple[_Likely, ...] = (
    lambda s, c: s.axes == c.axes and s.kind == c.kind and s.source == c.source,
)


def _several_as_one(seen: Seen, left: list[Collective]) -> Unplanned | None:
    """Planned collectives that a combiner laid end to end, not all as often as the whole."""
    able = [c for c in left if (c.kind, c.axes) == (seen.kind, seen.axes)]
    chosen = [able[k] for k in summing_to(seen.bytes, [c.bytes for c in able])]
    if len(chosen) < 2:
        return None
    for c in chosen:
        left.remove(c)
    lines = sorted({os.path.basename(c.source) for c in chosen})
    instead = f"{len(chosen)} planned ones of {', '.join(lines)}, sent as one"
    return Unplanned(seen, f"for {instead}", instead)


def _by_itself(seen: Seen) -> Unplanned:
    primitive = re.sub(r"[:)].*", "", seen.op_name.rpartition("/")[2])
    told = next(
        (why for kinds, names, why in _REASONS if seen.kind in kinds and primitive in names),
        f"XLA lays out the result of {primitive} otherwise than planned",
    )
    return Unplanned(seen, told)


_ANY = frozenset(KINDS.values())
# (kinds, primitive that XLA names, what is to be thought of it); the first that fits.
_REASONS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (
        frozenset({"permute"}),
        frozenset({"sharding_constraint"}),
        "the pieces wanted here lie on other devices, and XLA passes them on",
    ),
    (_ANY, frozenset({"sharding_constraint"}), "XLA gets to the layout wanted here by other steps"),
    (
        _ANY,
        frozenset({"dot_general", "conv_general_dilated"}),
        "XLA splits this product otherwise than planned",
    ),
    (_ANY, frozenset({"while", "scan"}), "XLA lays out otherwise what this loop carries"),
    (_ANY, frozenset({""}), "made by a pass of XLA's, of no line of the program"),
)
