"""Tables of the tensors that live between steps, and of the data that comes in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from autoshard.plan import units
from autoshard.plan.model import LeafPlan, Plan
from autoshard.program.spec import Spec
from autoshard.report import paths
from autoshard.report.table import Column, Picture, Table

_COLUMNS = (
    Column("path"),
    Column("tensor", whole=True),
    Column("spec at rest"),
    Column("per device", number=True),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Leaves of one role, type and spec. `bytes_per_device` is of all of them together."""

    role: str
    leaves: tuple[LeafPlan, ...]

    @property
    def bytes_per_device(self) -> float:
        return Plan.total_bytes(self.leaves)

    def name(self, below: int = 0) -> str:
        """What the paths have in common, without their first `below` steps, and how many."""
        return _name(self.leaves, below)


def group(leaves: Iterable[LeafPlan]) -> tuple[Group, ...]:
    """Similar leaves together, in order of first appearance."""
    found: dict[object, list[LeafPlan]] = {}
    for leaf in leaves:
        found.setdefault((leaf.role, leaf.dtype, leaf.shape, leaf.spec), []).append(leaf)
    return tuple(Group(same[0].role, tuple(same)) for same in found.values())


def parameters(plan: Plan, everything: bool) -> Table | None:
    """Parameters, largest group first."""
    return _table("parameters", tuple(plan.leaves("parameter")), everything)


def optimizer(plan: Plan, everything: bool) -> Table | None:
    """Optimizer state; what lies as its parameter does is one line, unless everything is asked."""
    leaves = tuple(plan.leaves("optimizer"))
    if everything or not leaves:
        return _table("optimizer state", leaves, everything)
    alike = _as_parameters(leaves, tuple(plan.leaves("parameter")))
    if not alike:
        return _table("optimizer state", leaves, everything)
    unlike = tuple(leaf for leaf in leaves if leaf.path not in alike)
    rest = _table("optimizer state", unlike, False, of=leaves)
    below = paths.root(leaf.path for leaf in leaves)
    same = [leaf for leaf in leaves if leaf.path in alike]
    size = units.size(Plan.total_bytes(same))
    one = (_name(same, len(below)), "", "as its parameter", size)
    return Table(
        _title("optimizer state", leaves),
        _COLUMNS,
        (one, *(rest.rows if rest else ())),
        pictures=(None, *(rest.pictures if rest else ())),
    )


def data(plan: Plan, everything: bool) -> Table | None:
    """Inputs that are not returned."""
    return _table("data", tuple(plan.leaves("data")), everything)


def giants(plan: Plan, fraction: float = 0.01) -> Iterator[str]:
    """Notes on state that is whole on every device and takes a share of its memory that matters."""
    limit = plan.machine.memory_limit_bytes
    for g in group(leaf for leaf in plan.leaves() if leaf.spec.is_replicated):
        if plan.mesh.n_devices > 1 and g.bytes_per_device >= fraction * limit:
            why = next((leaf.note for leaf in g.leaves if leaf.note), "")
            yield (
                f"{g.name()} is replicated: {units.size(g.bytes_per_device)} on every device"
                + (f" ({why})" if why else "")
            )


def _table(
    title: str, leaves: Sequence[LeafPlan], everything: bool, of: Sequence[LeafPlan] = ()
) -> Table | None:
    """A table of `leaves`, named below the root that they share with the other leaves `of` it."""
    if not leaves:
        return None
    groups = tuple(Group(x.role, (x,)) for x in leaves) if everything else group(leaves)
    groups = tuple(sorted(groups, key=lambda g: -g.bytes_per_device))
    below = paths.root(leaf.path for leaf in of or leaves)
    return Table(
        _title(title, leaves),
        _COLUMNS,
        tuple(_row(g, len(below)) for g in groups),
        pictures=tuple(Picture(g.leaves[0].shape, g.leaves[0].spec) for g in groups),
    )


def _title(title: str, leaves: Sequence[LeafPlan]) -> str:
    below = paths.root(leaf.path for leaf in leaves)
    where = f" in {'/'.join(below)}" if below else ""
    noun = "leaf" if len(leaves) == 1 else "leaves"
    size = units.size(Plan.total_bytes(leaves))
    return f"{title}{where}: {len(leaves)} {noun}, {size} per device"


def _name(leaves: Sequence[LeafPlan], below: int) -> str:
    count = f" x{len(leaves)}" if len(leaves) > 1 else ""
    return paths.pattern([leaf.path for leaf in leaves], below) + count


def _row(g: Group, below: int) -> tuple[str, ...]:
    leaf = g.leaves[0]
    return (
        g.name(below),
        paths.tensor(leaf.dtype, leaf.shape),
        str(leaf.spec),
        units.size(g.bytes_per_device),
    )


def _as_parameters(
    optimizer_state: Sequence[LeafPlan], parameters: Sequence[LeafPlan]
) -> frozenset[str]:
    """Paths of optimizer state whose parameter has the same shape and spec.

    A leaf's parameter is the one that shares the longest end of its path, of those of its shape.
    """
    ends: dict[tuple[tuple[str, ...], tuple[int, ...]], Spec] = {}
    for leaf in parameters:
        keys = paths.steps(leaf.path)
        for length in range(1, len(keys) + 1):
            ends.setdefault((keys[-length:], leaf.shape), leaf.spec)
    alike = set()
    for leaf in optimizer_state:
        keys = paths.steps(leaf.path)
        tails = (ends.get((keys[k:], leaf.shape)) for k in range(len(keys)))
        if leaf.shape and next((spec for spec in tails if spec is not None), None) == leaf.spec:
            alike.add(leaf.path)
    return frozenset(alike)
