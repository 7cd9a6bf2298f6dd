"""Local search that decides a random tree of variables at once, exactly.

A tree grows from a random variable by neighbours that touch it once, so that the pairs inside form
no circle. With everything outside fixed, the best answer on it follows by dynamic programming from
the leaves. Memory is charged for at given prices x a scale, and checked at all times: a move must
not add to what overflows. The scale falls from round to round, so memory first stays where it will
be needed and is spent in the end. (Subtree moves: Hamze and de Freitas, "From fields to trees",
UAI 2004; as an optimiser Selby, "Efficient subgraph-based sampling of Ising-type models with
frustration", 2014.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoshard.search import kernels
from autoshard.search.arrays import Arrays
from autoshard.search.problem import Floats, Ints

# Trees have up to this many variables.
_LARGEST = 60
# Moves made without looking at the clock.
_AT_ONCE = 2000


def descend(
    numbers: Arrays,
    choice: Ints,
    price: Floats,
    *,
    scales: Sequence[float],
    moves: int,
    seed: int,
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[Ints, bool]:
    """Tree moves from an answer.

    Args:
        numbers: the problem.
        choice: where to start.
        price: seconds per byte at every time.
        scales: of the prices, one per round.
        moves: trees per round.
        seed: of the trees.
        go_on: asked every now and then; ends the search when false.

    Returns:
        The answer, and whether it fits.
    """
    choice = choice.copy()
    used = numbers.used_bytes(choice)
    charge = numbers.priced_unary(price) - numbers.unary
    pair_charge = np.zeros(0)
    if len(numbers.pair_room.owner):
        pair_charge = numbers.priced_table(price) - numbers.graph.table
    rng = np.random.default_rng(seed)
    for scale in scales:
        for begin in range(0, moves, _AT_ONCE):
            if not go_on():
                break
            kernels.tree_moves(
                numbers.graph,
                numbers.unary,
                charge,
                pair_charge,
                float(scale),
                numbers.room,
                numbers.pair_room,
                numbers.free_bytes,
                used,
                numbers.hair_bytes,
                choice,
                int(rng.integers(1 << 47)),
                min(_AT_ONCE, moves - begin),
                _LARGEST,
            )
    return choice, numbers.fits(numbers.used_bytes(choice))
