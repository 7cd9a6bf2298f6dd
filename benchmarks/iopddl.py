"""The public format of the ASPLOS/EuroSys 2025 contest on intra-operator parallelism.

One JSON object: `nodes` with a cost and a usage per strategy and a lifetime [start, end) each,
`edges` with a row-major table of costs per pair of strategies, and a limit on usage at every time.
Costs are integers without a unit; the solver calls them seconds, and usage bytes. 10^18 stands for
"not together".
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from autoshard.search.problem import Floats, Pair, Problem, Usage, Variable

_FORBIDDEN = 10**18


class _Nodes(msgspec.Struct):
    intervals: list[tuple[int, int]]
    costs: list[msgspec.Raw]
    usages: list[msgspec.Raw]


class _Edges(msgspec.Struct):
    nodes: list[tuple[int, int]]
    costs: list[msgspec.Raw]


class _Instance(msgspec.Struct):
    nodes: _Nodes
    edges: _Edges
    usage_limit: int


class _File(msgspec.Struct):
    problem: _Instance


def read(path: str | Path) -> Problem:
    """An instance as a problem."""
    path = Path(path)
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    instance = msgspec.json.decode(text, type=_File).problem
    parse = _Numbers()
    nodes, edges = instance.nodes, instance.edges
    variables = []
    horizon = 1
    for (start, end), costs, usages in zip(nodes.intervals, nodes.costs, nodes.usages, strict=True):
        size = parse(usages)
        alive = end > start and bool(size.any())
        horizon = max(horizon, end)
        usage = (Usage(start, end - 1, size),) if alive else ()
        variables.append(Variable(parse(costs), usage))
    pairs = []
    for (a, b), costs in zip(edges.nodes, edges.costs, strict=True):
        shape = (len(variables[a].cost_s), len(variables[b].cost_s))
        pairs.append(Pair(a, b, parse(costs, shape)))
    return Problem(tuple(variables), tuple(pairs), float(instance.usage_limit), horizon)


def write(path: str | Path, choice: Sequence[int]) -> None:
    """A solution: one strategy per node."""
    Path(path).write_text(json.dumps([int(s) for s in choice]))


class _Numbers:
    """Lists of numbers as arrays. Large instances repeat few lists: equal ones share an array."""

    def __init__(self) -> None:
        self.known: dict[tuple[bytes, tuple[int, ...]], Floats] = {}

    def __call__(self, raw: msgspec.Raw, shape: tuple[int, ...] = (-1,)) -> Floats:
        key = (bytes(raw), shape)
        if key not in self.known:
            array = np.array(json.loads(key[0]), dtype=np.float64).reshape(shape)
            array[array >= _FORBIDDEN] = np.inf
            self.known[key] = array
        return self.known[key]
