"""What is known of a program before any mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autoshard.cost.habits import habits_of
from autoshard.cost.liveness import Liveness, liveness
from autoshard.cost.overlap import Beside
from autoshard.machine.model import Chip
from autoshard.program.ir import Program
from autoshard.search.anatomy import Anatomy, anatomy_of
from autoshard.search.graph import Graph, build_graph
from autoshard.search.hiding import beside
from autoshard.search.joined import Part, accumulated, joined_sums
from autoshard.search.kinds import Kind
from autoshard.search.repeats import alike
from autoshard.search.terms import Terms, terms_of
from autoshard.search.wire import Wire


@dataclass(frozen=True)
class Analysis:
    """What is known of a program before any mesh: decisions and lifetimes."""

    program: Program

    @cached_property
    def graph(self) -> Graph:
        return build_graph(self.program)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What each node holds."""
        return self.anatomy.kinds

    @cached_property
    def anatomy(self) -> Anatomy:
        """What its parts are to an expert."""
        return anatomy_of(self.graph)

    @cached_property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """Groups of nodes of repeated layers, to be laid out alike."""
        return alike(self.graph)

    @cached_property
    def _joined(self) -> dict[bool, dict[int, tuple[Part, ...]]]:
        return {}

    def joined_on(self, platform: str) -> dict[int, tuple[Part, ...]]:
        """By index of a flow, the partial sums that are sent as one with its own, it among them."""
        of_lookups = habits_of(platform).joins_lookup_sums
        if of_lookups not in self._joined:
            groups = joined_sums(self.graph, of_lookups)
            self._joined[of_lookups] = {p.flow: group for group in groups for p in group}
        return self._joined[of_lookups]

    @cached_property
    def _accumulated(self) -> dict[int, int]:
        return accumulated(self.program)

    def sum_times(self, tensor: int, region: int, platform: str) -> int:
        """How often in a step a sum is finished on all devices by an all-reduce.

        Args:
            tensor: that is the sum.
            region: where it is made.
            platform: of the compiler.
        """
        if habits_of(platform).sums_after_loops:
            region = self._accumulated.get(tensor, region)
        return self.program.times(region)

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.program)

    @cached_property
    def _live(self) -> dict[str, Liveness]:
        return {}

    def live_on(self, platform: str) -> Liveness:
        """Storage and lifetimes as the compiler for a platform has them."""
        if platform not in self._live:
            self._live[platform] = liveness(self.program, habits_of(platform))
        return self._live[platform]

    @cached_property
    def _beside(self) -> dict[tuple[int, int], tuple[Chip, tuple[Beside, ...]]]:
        return {}

    def beside_on(self, chip: Chip, n_devices: int) -> tuple[Beside, ...]:
        """Per flow, what runs beside its reshard; the same object for the same chip and number."""
        key = (id(chip), n_devices)  # the chip is kept with the answer: its id is not used anew
        if key not in self._beside:
            self._beside[key] = (chip, beside(self.graph, self.kinds, chip, n_devices))
        return self._beside[key][1]

    @cached_property
    def _terms(self) -> dict[tuple[str, int], tuple[tuple[Beside, ...], Terms]]:
        return {}

    def terms_on(
        self, platform: str, near: tuple[Beside, ...], classes: Sequence[tuple[int, ...]]
    ) -> Terms:
        """All that has a price, before any mesh.

        Args:
            platform: of the compiler.
            near: what runs beside each flow, from `beside_on`.
            classes: per node, those that may be split; the same on all meshes.
        """
        key = (platform, id(near))
        if key not in self._terms:
            self._terms[key] = (near, terms_of(self, platform, near, classes))
        return self._terms[key][1]
