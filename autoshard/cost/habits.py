"""What compilers do that shows in memory, platform by platform, as data.

Every entry was read off compiled programs: the buffer assignments that XLA 0.10.2 for NVIDIA GPUs
and libtpu 0.0.52 write for the steps of the zoo, beside the tensors that `liveness` has alive at
the peak (`python -m benchmarks compiled` shows how well they agree).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# Ops of class MOVE that can be computed inside the loop that reads them.
_MOVES = frozenset(
    {"gather", "slice", "dynamic_slice", "pad", "concatenate", "rev", "split", "tile"}
)


class Late(Enum):
    """Matmuls that wait.

    None; those that no other matmul follows, such as the gradients of parameters, which only the
    optimizer reads; or all.
    """

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True)
class Habits:
    """How a compiler fuses and schedules.

    Attributes:
        reads_through: moves that never stand on their own: their reader looks through them.
        reads_stored: ops that read what lies in memory, however their operand was made.
        writes_stored: ops whose result goes to memory, whoever reads it.
        joins_matmuls: elementwise ops after a matmul or convolution, as long as nobody else reads
            what lies between, are done on its result before it is stored; cheap ones before it, on
            its operands as they are read.
        late_matmuls: which matmuls run shortly before their result is read, so that their operands
            wait for it.
        early_buffers: what a loop or a scatter fills is allocated when the loop before it ends.
        turns: where elementwise ops meet results of two matmuls in different orders of dimensions,
            one is written once more in the other's order.
        sums_after_loops: what a loop only adds to its carry is all-reduced once, after the loop.
        scatters_into_sums: a scatter into zeros that is added to something goes into that instead.
        selects_for_scatters: a scatter of one number into each row is a comparison and a selection
            inside the loop that reads it; its forward pass, though, reads what is stored.
        joins_lookup_sums: partial sums of lookups' gradients are added to others before they are
            sent, as those of matmuls are.
        reshapes_stored: what a reshape reads that splits or merges the minor dimension is stored;
            to read it so takes another layout.
        gathers_major: what is gathered lies with the gathered dimension outermost. Slices of a
            stacked argument that do not are cut from a copy in another order, made before the loop.
        turns_looked_up: what a loop stacked and another slices, to look rows up in the slice and to
            read it otherwise too, is copied in another order when the slice is cut.
        rows_on_lanes: rows are looked up, and added to, in arrays whose rows lie along the lanes.
            Narrow rows, which otherwise lie across them, are copied so, padded to whole tiles.
        tile: sublanes and lanes to whole numbers of which an array's two minor dimensions are
            padded in memory.
    """

    reads_through: frozenset[str] = _MOVES
    reads_stored: frozenset[str] = frozenset()
    writes_stored: frozenset[str] = frozenset()
    joins_matmuls: bool = False
    late_matmuls: Late = Late.NONE
    early_buffers: bool = False
    turns: bool = False
    sums_after_loops: bool = False
    scatters_into_sums: bool = False
    selects_for_scatters: bool = False
    joins_lookup_sums: bool = True
    reshapes_stored: bool = False
    gathers_major: bool = False
    turns_looked_up: bool = False
    rows_on_lanes: bool = False
    tile: tuple[int, int] | None = None


# What is assumed of a compiler that nobody has looked at.
PLAIN = Habits()

_HABITS = {
    "gpu": Habits(
        late_matmuls=Late.ALL,
        early_buffers=True,
        turns=True,
        sums_after_loops=True,
        scatters_into_sums=True,
        gathers_major=True,
    ),
    # Tiles: https://openxla.org/xla/tiled_layout; 8 x 128 for all types of 16 and 32 bits.
    "tpu": Habits(
        reads_through=frozenset({"gather"}),
        reads_stored=frozenset({"slice", "pad"}),
        writes_stored=frozenset({"pad"}),
        joins_matmuls=True,
        late_matmuls=Late.LAST,
        sums_after_loops=True,
        selects_for_scatters=True,
        joins_lookup_sums=False,
        reshapes_stored=True,
        turns_looked_up=True,
        rows_on_lanes=True,
        tile=(8, 128),
    ),
}


def habits_of(platform: str) -> Habits:
    """Of the compiler for a JAX platform."""
    return _HABITS.get(platform, PLAIN)
