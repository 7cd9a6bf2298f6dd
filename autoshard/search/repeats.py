"""Repeated layers of an unrolled program, so that they can be laid out alike.

A scanned model says its layers once. An unrolled one says them again and again; what follows finds
that without names, in the sequence of ops: every op gets a *form* (primitive, rule, shapes), and
a *run* is a stretch in which forms repeat with some period, at least four times. The forward pass,
the backward pass and every pass of an optimizer over its leaves are runs of their own.

Two ops are *alike* when they stand at the same place of their layer in the same run, both inside
it, two layers (or a multiple) apart. Even and odd layers are kept apart because the best layout of
a stack of equal matmuls alternates (columns, then rows: Megatron); the first and the last layer
are kept apart because what surrounds them differs.

Decisions are alike when all their ops are, and the readers of all their tensors. Nothing depends
on this being more than a guess: alike decisions have the same options, and taking the same one for
all of them is a plan like any other (`autoshard/search/tie.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from autoshard.program.ir import Op, Program
from autoshard.search.graph import Graph, Node

# Fewer layers than this are not worth a restriction: first and last are free anyway.
_LEAST_LAYERS = 4
# How many ops in a row must repeat for a period to be looked at, and how many periods to try.
_WINDOW = 12
_MOST_PERIODS = 64
# Layers that may differ: even and odd ones.
_PHASES = 2

Ints = NDArray[np.int64]


def alike(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more nodes to be laid out alike."""
    program = graph.program
    keys = _op_keys(program)
    first_reader: dict[int, tuple[Hashable, int]] = {}
    for op in program.ops:
        for k, t in enumerate(op.inputs):
            if t is not None:
                first_reader.setdefault(t, (keys[op.id], k))
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for node in graph.nodes:
        groups[_node_key(graph, node, keys, first_reader)].append(node.id)
    return tuple(tuple(g) for g in groups.values() if len(g) > 1)


def _node_key(
    graph: Graph,
    node: Node,
    keys: Sequence[Hashable],
    first_reader: dict[int, tuple[Hashable, int]],
) -> Hashable:
    sizes = tuple(graph.size[c] for c in node.classes)
    own = None if node.own is None else keys[node.own]
    ops = tuple(keys[o] for o in node.ops)
    readers = tuple(first_reader.get(t, (None, 0)) for t in node.tensors)
    use = (None, 0) if node.use_of is None else first_reader.get(node.use_of, (None, 0))
    at = None if node.use_of is None else keys[node.span[0]]
    in_runs = (own, at, *ops, *(key for key, _ in (use, *readers)))
    # What stands in no run is like no other.
    if not any(isinstance(key, tuple) for key in in_runs):
        return node.id
    return (sizes, own, ops, readers, use, at)


def _op_keys(program: Program) -> list[Hashable]:
    """Per op: (run, place in the layer, phase) inside a run, otherwise its own id."""
    found: list[Hashable] = [op.id for op in program.ops]
    forms = _forms(program.ops)
    for run, (start, period, layers) in enumerate(runs(forms)):
        for layer in range(1, layers - 1):
            for place in range(period):
                found[start + layer * period + place] = (run, place, layer % _PHASES)
    return found


def _forms(ops: Sequence[Op]) -> Ints:
    """A number per op; equal for ops of the same primitive, rule and operands."""
    seen: dict[Hashable, int] = {}
    return np.array(
        [seen.setdefault((op.kind, op.rule, len(op.inputs)), len(seen)) for op in ops],
        dtype=np.int64,
    )


def runs(forms: Ints) -> list[tuple[int, int, int]]:
    """Stretches that repeat, as (start, period, number of whole periods); none overlap.

    Args:
        forms: a number per op.
    """
    n = len(forms)
    if n < _WINDOW * _LEAST_LAYERS:
        return []
    windows = _windows(forms)
    where: dict[int, list[int]] = defaultdict(list)
    for i, w in enumerate(windows):
        where[int(w)].append(i)
    rank = {}  # position -> its place among the positions of equal windows
    for places in where.values():
        for r, i in enumerate(places):
            rank[i] = r
    found: list[tuple[int, int, int]] = []
    i = 0
    while i < len(windows):
        places = where[int(windows[i])]
        later = places[rank[i] + 1 : rank[i] + 1 + _MOST_PERIODS]
        best: tuple[int, int] | None = None
        if len(places) - rank[i] >= _LEAST_LAYERS:
            for j in later:
                period = j - i
                reach = _reach(forms, i, period)
                layers = (reach + period) // period
                if layers >= _LEAST_LAYERS and (
                    best is None or layers * period > best[0] * best[1]
                ):
                    best = (period, layers)
        if best is None:
            i += 1
        else:
            found.append((i, *best))
            i += best[0] * best[1]
    return found


def _windows(forms: Ints) -> Ints:
    """A number per position, equal where the next `_WINDOW` forms are."""
    view = np.lib.stride_tricks.sliding_window_view(forms, _WINDOW)
    _, inverse = np.unique(view, axis=0, return_inverse=True)
    found: Ints = inverse.reshape(-1).astype(np.int64)
    return found


def _reach(forms: Ints, start: int, period: int) -> int:
    """How many ops from `start` on equal the one a period later."""
    same = forms[start:-period] == forms[start + period :]
    stops = np.flatnonzero(~same)
    return int(stops[0]) if len(stops) else len(same)
