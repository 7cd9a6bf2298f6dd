"""What a logical axis gets from a torus: bandwidth, latency and the order of its chips.

Formulas follow "How to Scale Your Model" (https://jax-ml.github.io/scaling-book/sharding/), with
`W` the one-way rate of a link. One axis, made of one or more pieces of physical dimensions:

* a closed ring gathers from both sides: 2 W. In an open line everything reaches the chip at the
  end through one link: W. A piece with stride t shares its links with t - 1 others: W / t.
* several closed rings gather at once, each a share of the data in its own order of dimensions.
  The share that dimensions S carry is at least what they must when they go first; the slowest
  such set decides. Equal rings: as many times one ring (the book's `V / (k * W2)`).
* an open grid with two dimensions and an even number of chips still forms one closed ring
  (`walk.py`): 2 W. JAX orders the chips of a TPU host so for that reason, and all-gathers
  measured on 2x2x1 and 2x2x2 slices run alike, so a third open dimension adds nothing
  (https://github.com/AI-Hypercomputer/tpu-recipes/tree/main/microbenchmarks).
* where neither holds, dimensions gather one after the other, in the best order.
* an all-to-all crosses each piece; the middle of a line or ring of m carries m/4 of what a
  device holds. Pieces work at once, the slowest decides.

Where a chip is several JAX devices they share its links evenly. An axis that holds the devices
of a chip gathers over chips first, then between them; one that does not runs as one ring for each,
side by side on the same links. Measured on TPU7x, which is such a chip: tests/cost.

Twisted tori and other traffic on the same links are not modelled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from autoshard.machine.model import MeshAxis
from autoshard.machine.network import Torus
from autoshard.machine.placement import Piece
from autoshard.machine.walk import Cell, has_cycle, walk

MAX_CUTS = 2  # pieces of one dimension: strides of three nested pieces were never checked
_NAMES = "xyzw"


@dataclass(frozen=True, slots=True)
class _Line:
    """A piece with its links."""

    piece: Piece
    closed: bool
    one_way_bytes_per_s: float

    @property
    def size(self) -> int:
        return self.piece.size

    @property
    def gather_bytes_per_s(self) -> float:
        return self.one_way_bytes_per_s * (2 if self.closed else 1)

    @property
    def hops(self) -> int:
        """Chips between the two that are farthest apart."""
        steps = self.size // 2 if self.closed else self.size - 1
        return steps * self.piece.stride

    @property
    def all_to_all_s_per_byte(self) -> float:
        """Time for each byte that a device holds."""
        return self.size**2 // 4 / self.size / self.gather_bytes_per_s

    @property
    def name(self) -> str:
        return _NAMES[self.piece.dim]


def torus_axis(
    name: str, size: int, pieces: tuple[Piece, ...], torus: Torus, topology: tuple[int, ...]
) -> MeshAxis:
    """The axis that these pieces make. See the module docstring."""
    if size == 1:
        return MeshAxis(name, 1, torus.link_bytes_per_s, 0.0)
    wraps = torus.wraps(topology)
    lines = [
        _Line(
            piece,
            closed=wraps[piece.dim] and piece.size * piece.stride == piece.length,
            one_way_bytes_per_s=torus.link_bytes_per_s / piece.stride / torus.cores_per_chip,
        )
        for piece in pieces
        if piece.dim < torus.rank
    ]
    cores = math.prod(piece.size for piece in pieces if piece.dim == torus.rank)
    steps = size - 1
    received = steps / size
    s_per_byte, links = 0.0, []
    all_to_all, neighbour, stride = [], [], 0
    if lines:
        bytes_per_s, form = _gather(lines)
        chips = size // cores
        # Of the gathered bytes, chips bring together what one device of each holds.
        s_per_byte += (chips - 1) / chips / cores / bytes_per_s
        stride = max(line.piece.stride for line in lines)
        links.append(_link(lines, form, stride))
        all_to_all = [line.all_to_all_s_per_byte for line in lines]
        neighbour = [line.one_way_bytes_per_s for line in lines]
    if cores > 1:
        between = torus.core_bytes_per_s or 2 * torus.rank * torus.link_bytes_per_s
        s_per_byte += (cores - 1) / cores / between
        links.append(f"{cores} on a chip")
        all_to_all.append((cores - 1) / cores / between)
        neighbour.append(between)
    # A ring through a grid has more hops; short messages may gather by dimensions instead.
    hops = sum(line.hops for line in lines)
    return MeshAxis(
        name,
        size,
        bytes_per_s=received / s_per_byte,
        latency_s=(torus.base_latency_s + hops * torus.hop_latency_s) / steps,
        link=", ".join(links),
        all_to_all_bytes_per_s=received / max(all_to_all),
        neighbour_bytes_per_s=min(neighbour),
        hop_latency_s=torus.base_latency_s + stride * torus.hop_latency_s,
        as_all_reduce=_as_all_reduce(lines, topology),
    )


# Smaller scatters go round as permutes beside the matmul that makes what they sum up.
_LARGEST_RING = 32


def _as_all_reduce(lines: list[_Line], topology: tuple[int, ...]) -> frozenset[str]:
    """What libtpu sends as an all-reduce over an axis that spans a whole slice.

    Read off programs compiled by libtpu 0.0.52 for v5e, v5p and v6e slices of 8 to 64 chips: no
    reduce-scatter is formed over all chips of a square or of three dimensions, and no all-gather
    over a torus closed in three dimensions.
    """
    sides = [line.size for line in lines]
    whole = sorted(sides) == sorted(n for n in topology if n > 1)
    if not whole or len(sides) < 2 or math.prod(sides) <= _LARGEST_RING:
        return frozenset()
    cube = len(sides) == 3
    found = {"reduce-scatter"} if cube or len(set(sides)) == 1 else set()
    if cube and all(line.closed for line in lines):
        found.add("all-gather")
    return frozenset(found)


def torus_order(pieces: tuple[Piece, ...], torus: Torus) -> tuple[Cell, ...]:
    """Positions along an axis as coordinates within its pieces, neighbours in a row."""
    chips = walk(tuple(piece.size for piece in pieces if piece.dim < torus.rank))
    cores = [range(piece.size) for piece in pieces if piece.dim == torus.rank]
    return tuple((*chip, *core) for chip in chips for core in itertools.product(*cores))


def _gather(lines: list[_Line]) -> tuple[float, str]:
    """Bandwidth of an all-gather, as `MeshAxis.bytes_per_s`, and the form that gives it."""
    if len(lines) == 1:
        return lines[0].gather_bytes_per_s, "ring" if lines[0].closed else "line"
    size = math.prod(line.size for line in lines)
    received = (size - 1) / size  # of the gathered bytes, by each device
    if all(line.closed for line in lines):
        return received / _together_s(lines, size), "torus"
    in_turn = received / _in_turn_s(lines)
    if has_cycle(tuple(line.size for line in lines)):
        ring = 2 * min(line.one_way_bytes_per_s for line in lines)
        if ring >= in_turn:
            return ring, "ring"
    return in_turn, "grid"


def _together_s(lines: list[_Line], size: int) -> float:
    """Seconds per gathered byte when shares of the data take the dimensions in all orders.

    Order by order, dimensions S receive between `1/n_rest - 1/n` (S first) and `1 - 1/n_S` (S
    last) of the data. These are the bases of a polymatroid, so some mix of orders meets a load
    proportional to bandwidth unless a set S must carry more than its part even when it is first.
    """
    return max(
        (math.prod(line.size for line in some) - 1)
        / size
        / sum(line.gather_bytes_per_s for line in some)
        for some in _subsets(lines)
    )


def _in_turn_s(lines: list[_Line]) -> float:
    """Seconds per gathered byte when dimensions gather one after the other, in the best order."""

    def total_s(order: Iterable[_Line]) -> float:
        seconds, part = 0.0, 1.0
        for line in order:  # from the last one, which handles all of the data, to the first
            seconds += part * (line.size - 1) / line.size / line.gather_bytes_per_s
            part /= line.size
        return seconds

    return min(total_s(order) for order in itertools.permutations(lines))


def _subsets(lines: list[_Line]) -> Iterable[tuple[_Line, ...]]:
    counts = range(1, len(lines) + 1)
    return itertools.chain.from_iterable(itertools.combinations(lines, k) for k in counts)


def _link(lines: list[_Line], form: str, stride: int) -> str:
    names = ",".join(line.name for line in lines)
    size = math.prod(line.size for line in lines)
    shape = "x".join(str(line.size) for line in lines)
    every = f", every {stride} chips" if stride > 1 else ""
    if form in ("ring", "line"):
        over = f" over {shape}" if len(lines) > 1 else ""
        return f"ICI {names} ({form} of {size}{over}{every})"
    return f"ICI {names} ({shape} {form}{every})"
