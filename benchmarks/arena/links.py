"""How long a collective takes on a torus of links: rings, by what the worst placed chip can do.

A gather brings `s * (n - 1) / n` of `s` bytes to each of n chips, and the chip with the fewest
links inside the group waits longest: one link a dimension in which the group extends, two where
that dimension closes to a ring. Scatters are gathers backwards, a sum is one of either. Groups
whose chips do not stand side by side share links with the groups between them. All-to-alls are
bound by the same, and by the links across the middle of each dimension. Permutes are routed
dimension by dimension; the busiest link counts. Rates and latencies are the data sheets'
(`autoshard.machine`); nothing is taken from the cost model of the plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshard.machine import Machine, Torus

# One link, one way: from a chip (its place) along a dimension, up (1) or down (-1).
Way = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True)
class Links:
    """The links of a slice, for devices numbered as a program numbers them.

    Attributes:
        topology: chips per dimension.
        wraps: which dimensions close to rings.
        order: per number in the program, the chip, row-major over the topology.
        bytes_per_s: of one link, one way.
        hop_s, start_s: latencies.
    """

    topology: tuple[int, ...]
    wraps: tuple[bool, ...]
    order: tuple[int, ...]
    bytes_per_s: float
    hop_s: float
    start_s: float

    def seconds(
        self, kind: str, groups: Sequence[Sequence[int]], size_bytes: float
    ) -> tuple[float, frozenset[Way]]:
        """Of one collective, and the links it keeps busy.

        Args:
            kind: as in `autoshard.verify.collectives.KINDS`.
            groups: who talks to whom; (source, target) pairs for a permute.
            size_bytes: of the larger side on one device.
        """
        if kind == "permute":
            return self._permute(groups, size_bytes)
        worst, ways = 0.0, set[Way]()
        for group in groups:
            if len(group) > 1:
                seconds, used = self._group(kind, group, size_bytes)
                worst, ways = max(worst, seconds), ways | used
        return worst, frozenset(ways)

    def _places(self, group: Sequence[int]) -> list[tuple[int, ...]]:
        chips = [self.order[d] if d < len(self.order) else d for d in group]
        rows = np.stack(np.unravel_index(chips, self.topology), axis=1)
        return [tuple(int(x) for x in row) for row in rows]

    def _group(self, kind: str, group: Sequence[int], size_bytes: float) -> tuple[float, set[Way]]:
        n, places = len(group), self._places(group)
        links, hops, crowd, middle = 0, 0, 1, 0.0
        ways: set[Way] = set()
        for d, wraps in enumerate(self.wraps):
            along = sorted({p[d] for p in places})
            if len(along) < 2:
                continue
            ring = wraps and len(along) == self.topology[d]
            links += 2 if ring else 1
            hops += len(along) // 2 if ring else along[-1] - along[0]
            crowd = max(crowd, -(-(along[-1] - along[0]) // (len(along) - 1)))
            middle = max(middle, len(along) / (8 if ring else 4))
            ways |= {(p, d, way) for p in places for way in (1, -1)}
        ends = size_bytes * (n - 1) / n / max(links, 1)
        moved = max(ends, size_bytes * middle) if kind == "all-to-all" else ends
        rounds = 2 if kind == "all-reduce" else 1
        seconds = rounds * (moved * crowd / self.bytes_per_s + hops * self.hop_s) + self.start_s
        return seconds, ways

    def _permute(
        self, pairs: Sequence[Sequence[int]], size_bytes: float
    ) -> tuple[float, frozenset[Way]]:
        load: Counter[Way] = Counter()
        longest = 0
        for pair in pairs:
            source, target = self._places(pair)
            at, hops = list(source), 0
            for d, length in enumerate(self.topology):
                distance = target[d] - source[d]
                if self.wraps[d] and 2 * abs(distance) > length:
                    distance -= length if distance > 0 else -length
                step = 1 if distance > 0 else -1
                for _ in range(abs(distance)):
                    load[tuple(at), d, step] += 1
                    at[d] = (at[d] + step) % length
                hops += abs(distance)
            longest = max(longest, hops)
        if not load:
            return 0.0, frozenset()
        moved = size_bytes * max(load.values()) / self.bytes_per_s
        seconds = moved + longest * self.hop_s + self.start_s
        return seconds, frozenset(load)


def links_of(machine: Machine, order: Sequence[int]) -> Links:
    """Of one TPU slice.

    Raises:
        ValueError: the machine is no single torus of chips with one device each.
    """
    torus = machine.network
    if not isinstance(torus, Torus) or torus.cores_per_chip != 1:
        raise ValueError(f"{machine.name} is no slice of a torus; the judge knows no other network")
    return Links(
        topology=machine.topology,
        wraps=torus.wraps(machine.topology),
        order=tuple(order),
        bytes_per_s=torus.link_bytes_per_s,
        hop_s=torus.hop_latency_s,
        start_s=torus.base_latency_s,
    )
