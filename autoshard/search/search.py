"""The whole search: every mesh, expert strategies as floor and hints, one certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoshard.errors import InfeasibleError, SearchInterrupted
from autoshard.machine.model import LogicalMesh, Machine
from autoshard.plan import units
from autoshard.plan.model import Certificate, Rival
from autoshard.program.ir import Program
from autoshard.search.answer import Answer
from autoshard.search.build import Analysis, MeshProblem, build_problem
from autoshard.search.least import least_memory
from autoshard.search.solve import Solution, solve
from autoshard.search.strategy import Strategy, restrict

# Gap at which a bound counts as met.
TOLERANCE = 1e-3
# CP-SAT is not asked to close less than this: the cost model itself is coarser.
GOOD_ENOUGH = 1e-2
# An expert whose bound is this many times the best answer is no rival worth solving exactly.
_NOT_A_RIVAL = 1.5
# Expert layouts are small problems; this many sweeps find their optimum or come within a hair.
_EXPERT_SWEEPS = 40


@dataclass(frozen=True)
class Found:
    """A finished search."""

    answer: Answer
    certificate: Certificate
    strategy: str


@dataclass
class _Candidate:
    numbers: MeshProblem
    hints: list[tuple[int, ...]]
    bound_s: float = float("-inf")
    rival: Rival | None = None


def search(
    program: Program,
    machine: Machine,
    meshes: Sequence[LogicalMesh],
    limit_bytes: float,
    *,
    strategies: Mapping[str, Strategy],
    strategy: str = "auto",
    time_limit_s: float = 10.0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Found:
    """Choose the mesh and every layout.

    Args:
        program: what to lay out.
        machine: on what.
        meshes: candidates.
        limit_bytes: per device.
        strategies: expert layouts by name.
        strategy: "auto", or the only strategy to consider.
        time_limit_s: wall clock for everything; the floor (experts) is always computed.
        seed: equal seeds and enough time give equal plans.
        tell: receives a line of text as things improve.

    Raises:
        InfeasibleError: nothing fits `limit_bytes`; says what would, and what is in the way.
        SearchInterrupted: Ctrl-C before any plan was found. After one was found, Ctrl-C returns it.
    """
    return _Search(
        program, machine, meshes, limit_bytes, strategies, strategy, time_limit_s, seed, tell
    ).run()


class _Search:
    def __init__(
        self,
        program: Program,
        machine: Machine,
        meshes: Sequence[LogicalMesh],
        limit_bytes: float,
        strategies: Mapping[str, Strategy],
        strategy: str,
        time_limit_s: float,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.analysis = Analysis(program)
        self.machine, self.limit_bytes = machine, limit_bytes
        self.meshes = _distinct(meshes)
        self.strategies, self.strategy = strategies, strategy
        self.seed, self.tell = seed, tell
        self.begun = time.monotonic()
        self.deadline = self.begun + time_limit_s
        self.rivals: list[Rival] = []
        self.best: tuple[float, MeshProblem, Solution] | None = None
        self.bounds: list[float] = []
        self.interrupted = False

    def run(self) -> Found:
        candidates: list[_Candidate] = []
        try:
            for mesh in self.meshes:
                self.tell(f"pricing layouts on mesh {mesh}")
                numbers = build_problem(self.analysis, self.machine, mesh, self.limit_bytes)
                candidates.append(_Candidate(numbers, []))
                self._experts(candidates[-1])
            if self.strategy == "auto":
                # First every mesh by bounds alone: quick, and good answers prune the rest.
                for candidate in sorted(candidates, key=self._promise):
                    self._solve(candidate, exact=False)
                open_ones = [c for c in candidates if self._worth_closing(c)]
                open_ones.sort(key=lambda c: c.bound_s)
                for i, candidate in enumerate(open_ones):
                    if self._worth_closing(candidate):
                        self._solve(candidate, exact=True, share=len(open_ones) - i)
                self.bounds += [c.bound_s for c in candidates]
                self.rivals += [c.rival for c in candidates if c.rival is not None]
        except KeyboardInterrupt:
            if self.best is None:
                raise SearchInterrupted("interrupted before any plan was found") from None
            self.interrupted = True
            self.tell("interrupted: the best plan so far is used")
        if self.best is None:
            raise self._infeasible(candidates)
        return self._found()

    def _experts(self, candidate: _Candidate) -> None:
        mesh = candidate.numbers.mesh
        big = {axis.name for axis in mesh.axes if axis.size > 1}
        names = {axis.name for axis in mesh.axes}
        for name, expert in self.strategies.items():
            if self.strategy not in ("auto", name):
                continue
            if not expert.axes <= big and not (len(self.meshes) == 1 and expert.axes <= names):
                continue
            if not {"data", "tensor"} <= names:
                continue
            solution = solve(
                candidate.numbers.problem,
                keep=restrict(candidate.numbers, expert),
                cutoff_s=self._too_slow() if self.strategy == "auto" else float("inf"),
                time_limit_s=max(self.deadline - time.monotonic(), 2.0)
                / (1 if self.strategy == name else 10),
                tolerance=TOLERANCE,
                max_sweeps=_EXPERT_SWEEPS,
                exact=self.strategy == name,
                seed=self.seed,
            )
            self._record(name, candidate, solution)
            if self.strategy == name:
                self.bounds.append(solution.bound_s)

    def _record(self, name: str, candidate: _Candidate, solution: Solution) -> None:
        mesh = str(candidate.numbers.mesh)
        if solution.choice is None:
            self.rivals.append(Rival(name, mesh, None, None, self._why_none(solution)))
            return
        peak = candidate.numbers.problem.peak_bytes(solution.choice)
        self.rivals.append(Rival(name, mesh, solution.cost_s, peak))
        candidate.hints.append(solution.choice)
        self._offer(candidate.numbers, solution)

    def _offer(self, numbers: MeshProblem, solution: Solution) -> None:
        if self.best is None or solution.cost_s < self.best[0]:
            self.best = (solution.cost_s, numbers, solution)
            self.tell(f"mesh {numbers.mesh}: best so far {units.time(solution.cost_s)}")

    def _too_slow(self) -> float:
        """Experts this much slower than the best so far are only bounded, not solved."""
        return _NOT_A_RIVAL * self.best[0] if self.best is not None else float("inf")

    def _why_none(self, solution: Solution) -> str:
        if solution.infeasible:
            return "does not fit"
        if self.best is not None and solution.bound_s > self.best[0]:
            return f"ruled out: what fits takes {units.time(solution.bound_s)} or more"
        return "found no layout that fits"

    def _promise(self, candidate: _Candidate) -> float:
        problem = candidate.numbers.problem
        return min((problem.cost_s(h) for h in candidate.hints), default=float("inf"))

    def _worth_closing(self, candidate: _Candidate) -> bool:
        """Whether a mesh may still hold a plan that is noticeably better than the best."""
        return self.best is None or candidate.bound_s < self.best[0] * (1 - GOOD_ENOUGH)

    def _solve(self, candidate: _Candidate, *, exact: bool, share: int = 1) -> None:
        mesh = str(candidate.numbers.mesh)
        cutoff = self.best[0] if self.best is not None else float("inf")

        def on_better(cost: float, bound: float) -> None:
            if bound > float("-inf") and cost < float("inf"):
                gap = max(cost - bound, 0.0) / max(cost, 1e-30)
                self.tell(
                    f"mesh {mesh}: {units.time(cost)}, bound {units.time(max(bound, 0.0))},"
                    f" gap {gap:.1%}"
                )

        solution = solve(
            candidate.numbers.problem,
            hints=candidate.hints,
            cutoff_s=cutoff * (1 + TOLERANCE),
            time_limit_s=max(self.deadline - time.monotonic(), 0.3) / share,
            tolerance=GOOD_ENOUGH if exact else TOLERANCE,
            exact=exact,
            seed=self.seed,
            on_better=on_better,
        )
        candidate.bound_s = max(candidate.bound_s, solution.bound_s)
        if solution.choice is None:
            candidate.rival = Rival("auto", mesh, None, None, self._why_none(solution))
            return
        candidate.hints.append(solution.choice)
        peak = candidate.numbers.problem.peak_bytes(solution.choice)
        self._offer(candidate.numbers, solution)
        assert self.best is not None
        remark = f"bound {units.time(max(candidate.bound_s, 0.0))}"
        if candidate.bound_s >= self.best[0]:
            remark += ": ruled out by it"
        candidate.rival = Rival("auto", mesh, solution.cost_s, peak, remark)

    def _found(self) -> Found:
        assert self.best is not None
        cost, numbers, solution = self.best
        complete = not self.interrupted and len(self.bounds) > 0
        bound = min(self.bounds) if complete else 0.0
        bound = max(min(bound, cost), 0.0)
        gap = max(cost - bound, 0.0) / max(cost, 1e-30)
        status = "optimal" if gap <= GOOD_ENOUGH else "feasible"
        certificate = Certificate(
            status=status,
            lower_bound_s=bound,
            gap=gap,
            search_s=time.monotonic() - self.begun,
            rivals=tuple(sorted(self.rivals, key=lambda r: (r.step_s is None, r.step_s or 0.0))),
        )
        assert solution.choice is not None
        return Found(Answer(numbers, solution.choice), certificate, self.strategy)

    def _infeasible(self, candidates: Sequence[_Candidate]) -> InfeasibleError:
        self.tell("nothing fits: looking for the least memory that would")
        least: tuple[float, MeshProblem, tuple[int, ...]] | None = None
        for candidate in candidates:
            peak, choice = least_memory(candidate.numbers.problem)
            if least is None or peak < least[0]:
                least = (peak, candidate.numbers, choice)
        assert least is not None, "there is always at least one mesh"
        peak, numbers, choice = least
        used = numbers.problem.usage_bytes(choice)
        lines = [
            f"  {units.size(a.bytes_per_device):>10}  {a.what}{'  ' + a.source if a.source else ''}"
            for a in Answer(numbers, choice).alive(int(used.argmax()), most=8)
        ]
        return InfeasibleError(
            f"no layout of {self.analysis.program.name!r} on {self.machine.name} fits in"
            f" {units.size(self.limit_bytes)} per device"
            + (f" with strategy {self.strategy!r}" if self.strategy != "auto" else "")
            + f".\nThe least that works is {units.size(peak)} per device (mesh {numbers.mesh})."
            " At its peak a device holds:\n"
            + "\n".join(lines)
            + "\nGive more memory (memory=...), more devices, a smaller batch, or rematerialise"
            " layers (jax.checkpoint).",
            least_bytes=peak,
        )


def _distinct(meshes: Sequence[LogicalMesh]) -> list[LogicalMesh]:
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
