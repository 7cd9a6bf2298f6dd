"""The program: what the traced function computes, without JAX.

A program is a flat list of ops in execution order. Bodies of loops and branches are spliced in
place and marked by their region, which knows how often it runs. Boundaries of regions are ops
too (`scan_xs`, `carry_in`, ...), so that layouts flow through them like through anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from autoshard.program.rule import Rule


class Role(Enum):
    """What an input is to the training step, found from data flow and never from names."""

    PARAMETER = "parameter"  # state that the loss reads
    OPTIMIZER = "optimizer"  # state that only the update reads
    DATA = "data"  # not returned: batches, keys, flags
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One value. `itemsize_bytes` is what an element occupies on a device."""

    id: int
    shape: tuple[int, ...]
    dtype: str
    itemsize_bytes: float

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> float:
        return self.elements * self.itemsize_bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """Mesh axes that code is written for (`shard_map`): inside, nothing else may be split by them.

    Attributes:
        axes: their names.
        mesh_sizes: of all axes of the mesh.
    """

    axes: tuple[str, ...]
    mesh_sizes: tuple[tuple[str, int], ...]

    def is_for(self, sizes: Mapping[str, int]) -> bool:
        """Whether a mesh has its axes and no others, at the same sizes.

        An axis of size 1 counts: code written for a mesh without it does not run on one with it.
        """
        return dict(self.mesh_sizes) == dict(sizes)

    def on(self, sizes: Mapping[str, int]) -> frozenset[str]:
        """The axes of a mesh that are spoken for: all of them, where it is another mesh."""
        return frozenset(self.axes if self.is_for(sizes) else sizes)

    @property
    def shards(self) -> int:
        """How many devices run the code, each on its own part."""
        return math.prod(size for name, size in self.mesh_sizes if name in self.axes)


@dataclass(frozen=True, slots=True)
class Region:
    """A loop body, a branch, a remat block, code for one shard, or the top level.

    The top level has the id 0, and is its own parent. `taken` is of code for one shard, and of all
    regions inside it. `share` is of a branch: in how many of how many trips of the loops around it
    it is taken, (1, 1) where that is not known.
    """

    id: int
    parent: int
    kind: str  # "top" | "scan" | "while" | "branch" | "remat" | "manual"
    trip_count: int = 1
    trip_known: bool = True
    at: str = ""
    taken: Taken | None = None
    share: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Place:
    """A value's position in the jaxpr: an equation and a slot of it.

    Slots: "operand k" and "result k" of the equation, "in k" and "out k" of its body.
    """

    at: str
    slot: str


@dataclass(frozen=True, slots=True)
class Manual:
    """How a user lays out an op.

    Attributes:
        axes: of each of its factors; None for one that the user leaves to the compiler.
        taken: the axes that the user speaks of, and their mesh.
    """

    axes: tuple[tuple[str, ...] | None, ...]
    taken: Taken


@dataclass(frozen=True, slots=True)
class Op:
    """One equation, or one boundary of a region.

    Attributes:
        id: position in execution order; also the op's point in time for liveness.
        kind: the primitive's name, or a boundary's.
        inputs: tensor ids, None for literals.
        outputs: tensor ids.
        at: where the equation stands: indices through nested jaxprs, "12/3"; the key by which
            a plan's constraints are put back. For boundaries, of the loop or branch.
        source: the user's "file:line", or "".
        scope: the name stack, e.g. "jvp(GPT)/Block/Dense_0".
        in_places, out_places: where constraints go, for boundaries of regions; equations use
            their own operands and results.
        pinned: of a user's own sharding constraint: the axes of each dimension, None for one that
            it leaves open.
        manual: of code that the user lays out (`shard_map`), or of its boundary.
        over: of a collective that the user writes: the axes that it runs along.
    """

    id: int
    kind: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    rule: Rule
    region: int = 0
    at: str = ""
    source: str = ""
    scope: str = ""
    in_places: tuple[Place, ...] = ()
    out_places: tuple[Place, ...] = ()
    pinned: tuple[tuple[str, ...] | None, ...] | None = None
    manual: Manual | None = None
    over: tuple[str, ...] = ()

    def in_place(self, k: int) -> Place:
        """Where a constraint on the use of operand `k` is put."""
        return self.in_places[k] if self.in_places else Place(self.at, f"operand {k}")

    def out_place(self, k: int) -> Place:
        """Where a constraint on the definition of result `k` is put."""
        return self.out_places[k] if self.out_places else Place(self.at, f"result {k}")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the function's inputs or outputs, by its pytree path."""

    path: str
    tensor: int | None  # None for an output that is a literal
    shape: tuple[int, ...]
    dtype: str
    role: Role
    donated: bool = False
    treepath: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Program:
    """A traced function. See the module docstring.

    Attributes:
        name: the function's name.
        tensors: by id.
        ops: in execution order; `ops[i].id == i`.
        regions: by id.
        inputs, outputs: leaves in flattened order.
        aliases: (output index, input index) of state that the step reads and returns.
        fingerprint: a hash of the jaxpr's text; equal programs have equal `at` keys.
        mesh_sizes: of the mesh that the user's own constraints, or else the first code that the
            user lays out, speak of; empty without any.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    regions: tuple[Region, ...]
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    aliases: tuple[tuple[int, int], ...] = ()
    fingerprint: str = ""
    mesh_sizes: tuple[tuple[str, int], ...] = ()
    _times: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def times(self, region: int) -> int:
        """How often a region runs in one step: trip counts up to the top, multiplied.

        Of a branch, as often as it is taken, where that is known.
        """
        if region not in self._times:
            around = [*self._around(region)]
            total = math.prod(r.trip_count * r.share[0] for r in around)
            self._times[region] = total // math.prod(r.share[1] for r in around)
        return self._times[region]

    def comes_by(self, region: int) -> int:
        """How often a step comes by the code of a region, taken or not: trip counts alone."""
        return math.prod(r.trip_count for r in self._around(region))

    def _around(self, region: int) -> Iterator[Region]:
        """A region and those that it lies in, up to the top."""
        current = self.regions[region]
        while True:
            yield current
            if current.parent == current.id:
                return
            current = self.regions[current.parent]

    def uses(self) -> dict[int, list[tuple[Op, int]]]:
        """For each tensor, the (op, operand index) pairs that read it."""
        table: dict[int, list[tuple[Op, int]]] = {t.id: [] for t in self.tensors}
        for op in self.ops:
            for k, tensor in enumerate(op.inputs):
                if tensor is not None:
                    table[tensor].append((op, k))
        return table

    def shards(self, region: int) -> int:
        """How many devices run a region, each on a part of its own; 1 outside of `shard_map`."""
        taken = self.regions[region].taken
        return 1 if taken is None else taken.shards

    @property
    def unknown_ops(self) -> Iterator[Op]:
        """Ops that no rule covers: kept whole."""
        return (op for op in self.ops if not op.rule.known)
