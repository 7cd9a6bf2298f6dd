"""One mesh while the search considers it, and what is asked of meshes before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoshard.machine.model import LogicalMesh
from autoshard.plan.model import Rival
from autoshard.search.build import MeshProblem
from autoshard.search.first import LARGE
from autoshard.search.least import Least
from autoshard.search.problem import Problem
from autoshard.search.reduce import Keep
from autoshard.search.strategy import Strategy, restrict
from autoshard.search.tie import Tied
from autoshard.search.wishes import Granted


@dataclass
class Candidate:
    """One mesh under consideration.

    Attributes:
        numbers: its problem.
        granted: what the user's intents leave of it.
        tied: the same with repeated layers laid out alike, which is what is searched.
        keep: options allowed per variable of `tied`; None allows all.
        hints: answers of `tied` found so far that fit.
        bound_s: nothing on this mesh is faster.
        bounded: whether that was looked for.
        least: the layout that needs least memory; None until asked.
        infeasible: proven that nothing fits.
    """

    numbers: MeshProblem
    granted: Granted
    tied: Tied
    keep: Keep | None
    hints: list[tuple[int, ...]]
    bound_s: float = float("-inf")
    bounded: bool = False
    least: Least | None = None
    infeasible: bool = False

    @property
    def problem(self) -> Problem:
        """What is searched."""
        return self.tied.problem

    def only(self, expert: Strategy) -> Keep:
        """The options that an expert's layout leaves of those that the user's intents do."""
        return self.tied.keep(self.granted.within(restrict(self.numbers, expert)))

    @property
    def is_large(self) -> bool:
        """Whether a first look at its bounds costs less than what follows."""
        return len(self.problem.variables) >= LARGE

    @property
    def cost_s(self) -> float:
        return min((self.problem.cost_s(h) for h in self.hints), default=float("inf"))


def refused(expert: Strategy, mesh: str, why: str) -> Rival:
    """The row of an expert that means nothing here."""
    return Rival(expert.name, mesh, None, None, f"does not apply: {why}")


def suits(expert: Strategy, mesh: LogicalMesh) -> bool:
    """Whether a strategy needs every large axis of a mesh, and finds all it needs."""
    big = {axis.name for axis in mesh.axes if axis.size > 1}
    return expert.needs <= big <= expert.uses


def distinct(meshes: Sequence[LogicalMesh]) -> list[LogicalMesh]:
    """Meshes that differ in more than names: with one axis larger than 1, its name is no choice."""
    seen: set[tuple[object, ...]] = set()
    out: list[LogicalMesh] = []
    for mesh in meshes:
        big = [axis for axis in mesh.axes if axis.size > 1]
        key: tuple[object, ...] = (
            (big[0].size, big[0].bytes_per_s) if len(big) == 1 else tuple(a for a in mesh.axes)
        )
        if key not in seen:
            seen.add(key)
            out.append(mesh)
    return out
