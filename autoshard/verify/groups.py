"""Which devices talk in a collective, and along which mesh axes that is.

Devices are positions in the mesh, row-major: what XLA calls partition numbers. Groups come in three
ways of writing:

    {{0,1},{2,3}}
    [2,4]<=[4,2]T(1,0)                            an iota, reshaped, transposed, reshaped again
    mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}        axes of a mesh that XLA made up
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Groups = tuple[tuple[int, ...], ...]
_Ints = npt.NDArray[np.int64]

_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\(([^{]*?)\))? ?\{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{[\d,]*\},?)*)\}")
_SUB_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a collective runs.

    Attributes:
        axes: the mesh axes it runs over, in the mesh's order.
        whole: whether every group is all devices of a line along those axes; False for halves
            of an axis and other groups that no axes describe.
        size: devices in a group.
    """

    axes: tuple[str, ...]
    whole: bool
    size: int


def groups_of(attributes: str, n_devices: int) -> Groups:
    """The groups of a collective from its attributes; all devices where it names none."""
    if found := _MESH.search(attributes):
        return _of_mesh(found[1], found[2], found[3])
    if found := _IOTA.search(attributes):
        return _rows(_iota(found[1]))
    lists = _LISTS.search(attributes)
    groups = _int_lists(lists[1]) if lists else ()
    return groups or (tuple(range(n_devices)),)


def pairs_of(attributes: str) -> Groups:
    """(source, target) of a permute; pairs that stay where they are left out."""
    found = _PAIRS.search(attributes)
    return tuple(p for p in _int_lists(found[1]) if p[0] != p[1]) if found else ()


def span(groups: Groups, sizes: Mapping[str, int]) -> Span:
    """The mesh axes that groups run over.

    Args:
        groups: positions in the mesh.
        sizes: of the mesh's axes, major first.
    """
    names = [name for name, size in sizes.items() if size > 1]
    shape = [sizes[name] for name in names]
    axes = _differing(groups, names, shape)
    size = max((len(group) for group in groups), default=1)
    wanted = lines(tuple(names.index(a) for a in axes), shape)
    return Span(axes, {frozenset(g) for g in groups} == wanted, size)


def permute_span(pairs: Groups, sizes: Mapping[str, int]) -> Span:
    """The mesh axes along which a permute moves something."""
    names = [name for name, size in sizes.items() if size > 1]
    return Span(_differing(pairs, names, [sizes[n] for n in names]), True, 2)


def lines(along: Sequence[int], shape: Sequence[int]) -> set[frozenset[int]]:
    """The sets of devices that lie along some axes of a mesh."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    rest = [a for a in range(len(shape)) if a not in along]
    width = math.prod(shape[a] for a in along)
    rows = grid.transpose([*rest, *along]).reshape(-1, width)
    return {frozenset(row) for row in rows.tolist()}


def _differing(groups: Groups, names: Sequence[str], shape: Sequence[int]) -> tuple[str, ...]:
    """The axes whose coordinate is not the same for all devices of some group."""
    found: set[int] = set()
    for group in groups:
        where = np.array(np.unravel_index(list(group), tuple(shape) or (1,)))
        found |= {int(a) for a in np.flatnonzero((where != where[:, :1]).any(axis=1))}
    return tuple(name for a, name in enumerate(names) if a in found)


def _int_lists(text: str) -> Groups:
    return tuple(_ints(found) for found in re.findall(r"\{([\d,]+)\}", text))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _iota(text: str) -> _Ints:
    """`[2,4]<=[4,2]T(1,0)`; without `<=` the shape is the iota's own."""
    found = re.match(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", text)
    if found is None:
        raise ValueError(f"cannot read device numbers from {text!r}")
    final = _ints(found[1])
    source = _ints(found[2]) if found[2] else final
    grid: _Ints = np.arange(math.prod(source), dtype=np.int64).reshape(source)
    if found[3]:
        grid = grid.transpose(_ints(found[3]))
    return grid.reshape(final) if found[2] else grid


def _of_mesh(axes: str, devices: str | None, over: str) -> Groups:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    total = math.prod(sizes.values())
    if not devices:
        ids: Any = np.arange(total)
    else:
        ids = _iota(devices).ravel() if devices.startswith("[") else np.array(_ints(devices))
    chosen = {m[1]: m.groups()[1:] for m in _SUB_AXIS.finditer(over)}
    shape: list[int] = []
    along: list[int] = []
    for name, size in sizes.items():
        before, middle = chosen.get(name, (None, None))
        pieces = (
            [size]
            if before is None
            else [int(before), int(middle), size // int(before) // int(middle)]
        )
        if name in chosen:
            along.append(len(shape) + (0 if before is None else 1))
        shape += pieces
    rest = [a for a in range(len(shape)) if a not in along]
    width = math.prod(shape[a] for a in along)
    return _rows(ids.reshape(shape).transpose([*rest, *along]).reshape(-1, width))


def _rows(grid: Iterable[Any]) -> Groups:
    return tuple(tuple(int(n) for n in row) for row in grid)
