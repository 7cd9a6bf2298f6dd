"""How much work one instruction of a scheduled TPU module is: FLOPs, and bytes by memory space.

Everything is read from the text. A fusion computes what the products inside it compute, and moves
what it reads of its operands and what it writes: an operand that is only sliced is read where it
is sliced, a result that is an update of an operand is written where it is updated. Bytes are
physical: TPUs keep arrays in tiles, and the layout in the text says which dimensions are padded.
Arrays marked `S(n)` lie in on-chip memory and take nothing of the bandwidth to HBM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from autoshard.verify.hlo import Instruction, Module
from autoshard.verify.shapes import bits

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_GROUPS = re.compile(r"(feature|batch)_group_count=(\d+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_INDEX = re.compile(r"index=(\d+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")

# Names for values, places in memory, and what the scalar core does on the side.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id"
    " opt-barrier add-dependency domain copy-done async-done async-update".split()
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "GatherScatter")
_SLICES = frozenset({"dynamic-slice", "slice", "gather"})


@dataclass(frozen=True, slots=True)
class Work:
    """What one instruction asks of a chip."""

    flops: float = 0.0
    hbm_bytes: float = 0.0
    vmem_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Placed:
    """An array of a type, with where and how it lies.

    Attributes:
        shape, dtype: of it.
        bytes: with the padding of its tiles.
        on_chip: whether it lies in the chip's own memory.
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: float
    on_chip: bool

    @property
    def dense_bytes(self) -> float:
        return math.prod(self.shape) * bits(self.dtype) / 8


@cache
def placed(text: str) -> tuple[Placed, ...]:
    """All arrays of a type as written, tuples flattened."""
    return tuple(_placed(*found.groups("")) for found in _ARRAY.finditer(text))


def _placed(dtype: str, dims: str, layout: str) -> Placed:
    shape = tuple(int(n) for n in re.findall(r"\d+", dims))
    order = [int(n) for n in re.findall(r"\d+", layout.partition(":")[0])]
    tile, space = _TILE.search(layout), _SPACE.search(layout)
    padded = list(shape)
    if tile and len(order) == len(shape):
        sides = [int(n) for n in tile[1].split(",")]
        for side, dim in zip(reversed(sides), order, strict=False):
            padded[dim] = -(-padded[dim] // side) * side
        if len(sides) > len(shape):  # a vector in tiles of two dimensions; its row is not written
            padded = list(shape)
    size = math.prod(padded) * bits(dtype) / 8
    return Placed(shape, dtype, size, bool(space and int(space[1]) > 0))


@dataclass
class Reader:
    """Reads the work of the instructions of one module."""

    module: Module
    _flops: dict[str, float] = field(default_factory=dict)

    @cached_property
    def tables(self) -> Mapping[str, Mapping[str, Instruction]]:
        """Instructions of each computation by name."""
        return {c: {i.name: i for i in body} for c, body in self.module.computations.items()}

    def work(self, computation: str, instruction: Instruction) -> Work:
        """Of one instruction; loops, branches and collectives have none of their own."""
        opcode = instruction.opcode
        if opcode in _FREE or (
            opcode == "custom-call" and any(name in instruction.attributes for name in _FREE_CALLS)
        ):
            return Work()
        table = self.tables[computation]
        sizes = [0.0, 0.0]
        for k, name in enumerate(instruction.operands):
            if name in table:
                part = self._read(table, instruction, k)
                for array in placed(table[name].type):
                    sizes[array.on_chip] += array.bytes * part
        results = placed(instruction.type)
        for array, part in zip(results, self._written(table, instruction), strict=True):
            sizes[array.on_chip] += array.bytes * part
        flops = self.flops(computation, instruction)
        return Work(flops, hbm_bytes=sizes[0], vmem_bytes=sizes[1])

    # -- products ----------------------------------------------------------------------------

    def flops(self, computation: str, instruction: Instruction) -> float:
        """Two per multiplication that is not with padding."""
        table = self.tables[computation]
        if instruction.opcode == "convolution":
            lhs, rhs = (placed(table[o].type)[0].shape for o in instruction.operands[:2])
            out = placed(instruction.type)[0].shape
            return convolution_flops(lhs, rhs, out, instruction.attributes)
        if instruction.opcode == "dot":
            lhs = placed(table[instruction.operands[0]].type)[0].shape
            found = _CONTRACTED.search(instruction.attributes)
            depth = math.prod(lhs[int(d)] for d in re.findall(r"\d+", found[1] if found else ""))
            return 2.0 * depth * math.prod(placed(instruction.type)[0].shape)
        if instruction.opcode == "fusion":
            return sum(self._inside(name) for name in instruction.called("calls"))
        return 0.0

    def _inside(self, computation: str) -> float:
        if computation not in self._flops:
            body = self.module.computations.get(computation, ())
            self._flops[computation] = sum(self.flops(computation, i) for i in body)
        return self._flops[computation]

    # -- what is read and written ------------------------------------------------------------

    def _read(self, table: Mapping[str, Instruction], user: Instruction, slot: int) -> float:
        """The part of operand `slot` that an instruction reads."""
        whole = sum(a.dense_bytes for a in placed(table[user.operands[slot]].type))
        if not whole:
            return 0.0
        if user.opcode in _SLICES and slot == 0:
            return min(1.0, sum(a.dense_bytes for a in placed(user.type)) / whole)
        if user.opcode in ("dynamic-update-slice", "scatter") and slot == 0:
            return 0.0  # written in place; what is overwritten is not read
        if user.opcode == "fusion":
            parts = [self._parameter(name, slot) for name in user.called("calls")]
            return min(1.0, max(parts, default=1.0))
        return 1.0

    def _parameter(self, computation: str, slot: int) -> float:
        """The part of a computation's parameter that is read."""
        body = self.module.computations.get(computation, ())
        mine = [i for i in body if i.opcode == "parameter" and i.literal == str(slot)]
        if len(mine) != 1:
            return 1.0
        return self._name_read(computation, mine[0])

    def _name_read(self, computation: str, value: Instruction) -> float:
        total = 0.0
        table = self.tables[computation]
        for user in table.values():
            for k, name in enumerate(user.operands):
                if name != value.name:
                    continue
                if user.opcode == "bitcast":
                    total += self._name_read(computation, user)
                elif not (user.is_root and user.opcode == "tuple"):
                    total += self._read(table, user, k)
        return min(1.0, total)

    def _written(self, table: Mapping[str, Instruction], instruction: Instruction) -> list[float]:
        """Of each array of its result, the part that an instruction writes."""
        results = placed(instruction.type)
        if instruction.opcode in ("dynamic-update-slice", "scatter") and len(results) == 1:
            update = instruction.operands[1 if instruction.opcode != "scatter" else -1]
            if update in table and results[0].dense_bytes:
                size = sum(a.dense_bytes for a in placed(table[update].type))
                return [min(1.0, size / results[0].dense_bytes)]
        if instruction.opcode == "bitcast" and instruction.operands[0] in table:
            return self._written(table, table[instruction.operands[0]])
        if instruction.opcode == "get-tuple-element" and instruction.operands[0] in table:
            found = _INDEX.search(instruction.attributes)
            parts = self._written(table, table[instruction.operands[0]])
            if found and len(results) == 1 and int(found[1]) < len(parts):
                return [parts[int(found[1])]]
        if instruction.opcode == "tuple":
            parts = [p for name in instruction.operands for p in self._made(table, name)]
            if len(parts) == len(results):
                return parts
        if instruction.opcode == "fusion":
            for name in instruction.called("calls"):
                inner = self.tables.get(name, {})
                root = next((i for i in inner.values() if i.is_root), None)
                parts = self._written(inner, root) if root else []
                if len(parts) == len(results):
                    return parts
        return [1.0] * len(results)

    def _made(self, table: Mapping[str, Instruction], name: str) -> list[float]:
        """The parts written of an operand of a computation's root; what it was given, none."""
        if name not in table:
            return []
        if table[name].opcode == "parameter":
            return [0.0] * len(placed(table[name].type))
        return self._written(table, table[name])


# -- convolutions --------------------------------------------------------------------------------


def convolution_flops(
    lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...], attributes: str
) -> float:
    """Of a convolution; the TPU's compiler writes all products as such, batches as windows.

    Only pairs of a place of the result and one of the window that meet an element count: windows
    reach into padding, and into the holes of dilated operands.
    """
    labels = _LABELS.search(attributes)
    if labels is None:
        return 0.0
    groups = {kind: int(n) for kind, n in _GROUPS.findall(attributes)}
    window = _window(attributes)
    pairs = 1.0
    for k, label in enumerate(sorted(c for c in labels[1] if c.isdigit())):
        pairs *= _meetings(
            lhs[labels[1].index(label)], rhs[labels[2].index(label)], out[labels[3].index(label)],
            *(window.get(key, ())[k] if k < len(window.get(key, ())) else start
              for key, start in (("stride", 1), ("low", 0), ("lhs_dilate", 1), ("rhs_dilate", 1))),
        )  # fmt: skip
    batch = lhs[labels[1].index("b")] / groups.get("batch", 1)
    features = lhs[labels[1].index("f")] / groups.get("feature", 1)
    return 2.0 * pairs * batch * features * out[labels[3].index("f")]


def _window(attributes: str) -> dict[str, list[int]]:
    found = _WINDOW.search(attributes)
    words = dict(word.split("=", 1) for word in found[1].split()) if found else {}
    out: dict[str, list[int]] = {
        key: [int(n) for n in words[key].split("x")]
        for key in ("stride", "lhs_dilate", "rhs_dilate")
        if key in words
    }
    if "pad" in words:
        out["low"] = [int(pair.split("_")[0]) for pair in words["pad"].split("x")]
    return out


@cache
def _meetings(
    size: int, window: int, out: int, stride: int, low: int, dilate: int, window_dilate: int
) -> int:
    """Pairs of a place of the result and one of the window that meet an element."""
    places = np.arange(out)[:, None] * stride + np.arange(window)[None, :] * window_dilate - low
    inside = (places >= 0) & (places <= (size - 1) * dilate) & (places % dilate == 0)
    return int(inside.sum())
