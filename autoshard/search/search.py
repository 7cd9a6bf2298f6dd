"""The whole search: every mesh, expert strategies as floor and hints, one certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoshard.errors import InfeasibleError, IntentError, SearchInterrupted, StrategyError
from autoshard.intent import Intent
from autoshard.machine.model import LogicalMesh, Machine
from autoshard.plan import units
from autoshard.plan.model import Certificate, Rival
from autoshard.program.ir import Program
from autoshard.search.answer import Answer
from autoshard.search.build import Analysis, MeshProblem, build_problem
from autoshard.search.candidate import Candidate, distinct, refused, suits
from autoshard.search.infeasible import explain_infeasible
from autoshard.search.layouts import refined, refinement
from autoshard.search.least import least_memory
from autoshard.search.problem import gap
from autoshard.search.reduce import Keep
from autoshard.search.solve import Solution, solve
from autoshard.search.strategy import Strategy, lacking, undivided
from autoshard.search.wishes import grant

# Gap at which a bound counts as met.
TOLERANCE = 1e-3
# CP-SAT is not asked to close less than this: the cost model itself is coarser.
GOOD_ENOUGH = 1e-2
# An expert whose bound is this many times the best answer is no rival worth solving exactly.
_NOT_A_RIVAL = 1.5
# Meshes of more axes whose tables are larger than this are left alone.
_MOST_CELLS = 8_000_000
# Expert layouts are small problems; this many sweeps find their optimum or come within a hair.
_EXPERT_SWEEPS = 40
# Closing what they leave open may take this part of the time limit more.
_FLOOR = 0.25
# Where memory is this full, repeated layers may want different layouts after all; this many sweeps
# over all of them look for that.
_TIGHT = 0.9
_LOOSE_SWEEPS = 12


@dataclass(frozen=True)
class Found:
    """A finished search."""

    answer: Answer
    certificate: Certificate
    strategy: str
    interrupted: bool = False


def search(
    program: Program,
    machine: Machine,
    meshes: Sequence[LogicalMesh],
    limit_bytes: float,
    *,
    finer: Sequence[LogicalMesh] = (),
    strategies: Mapping[str, Strategy],
    strategy: str = "auto",
    intents: Sequence[Intent] = (),
    time_limit_s: float = 10.0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Found:
    """Choose the mesh and every layout.

    Args:
        program: what to lay out.
        machine: on what.
        meshes: candidates.
        finer: candidates of more axes, looked at in the time that is left, and taken where they
            are noticeably faster.
        limit_bytes: per device.
        strategies: expert layouts by name.
        strategy: "auto", or the only strategy to consider.
        intents: what the user wants of the layout beside speed.
        time_limit_s: wall clock for everything; the floor (experts) is always computed.
        seed: equal seeds and enough time give equal plans.
        tell: receives a line of text as things improve.

    Raises:
        IntentError: the intents contradict each other, or cannot be met on any mesh.
        InfeasibleError: nothing fits `limit_bytes`; says what would, and what is in the way.
        StrategyError: the strategy asked for means nothing for the program, or on any mesh.
        SearchInterrupted: Ctrl-C before any plan was found. After one was found, Ctrl-C returns it.
    """
    return _Search(
        program,
        machine,
        meshes,
        finer,
        limit_bytes,
        strategies,
        strategy,
        intents,
        time_limit_s,
        seed,
        tell,
    ).run()


class _Search:
    def __init__(
        self,
        program: Program,
        machine: Machine,
        meshes: Sequence[LogicalMesh],
        finer: Sequence[LogicalMesh],
        limit_bytes: float,
        strategies: Mapping[str, Strategy],
        strategy: str,
        intents: Sequence[Intent],
        time_limit_s: float,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.analysis = Analysis(program)
        self.machine, self.limit_bytes = machine, limit_bytes
        self.meshes, self.finer = distinct(meshes), list(finer)
        self.strategies, self.strategy, self.intents = strategies, strategy, intents
        self.seed, self.tell = seed, tell
        self.begun = time.monotonic()
        self.deadline, self.time_limit_s = self.begun + time_limit_s, time_limit_s
        self.lacking = {
            name: why
            for name, expert in strategies.items()
            if (why := lacking(self.analysis, expert))
        }
        self.experts = [refused(strategies[name], "any", why) for name, why in self.lacking.items()]
        self.floors: list[tuple[Candidate, Keep, Solution]] = []  # of experts
        self.candidates: list[Candidate] = []
        self.best: tuple[float, Candidate, tuple[int, ...]] | None = None
        self.refusals: list[IntentError] = []  # of meshes on which the user's intents cannot be met
        self.priced = False  # every mesh
        self.ruled_out: list[Rival] = []  # finer meshes that hold nothing noticeably better
        self.interrupted = False

    def run(self) -> Found:
        try:
            for mesh in self._meshes():
                candidate = self._priced(self._numbers(mesh))
                if candidate is None:
                    continue
                if self.strategy == "auto":
                    self.candidates.append(candidate)
                    self._consider(candidate)
                    continue
                expert = self.strategies[self.strategy]
                if why := undivided(candidate.numbers, expert):
                    self.experts.append(refused(expert, str(mesh), why))
                    continue
                candidate.keep = candidate.only(expert)
                self.candidates.append(candidate)
            self.priced = True
            if not self.candidates and self.refusals:
                raise self.refusals[0]
            if not self.candidates:
                whys = "; ".join(f"({r.mesh}) {r.remark}" for r in self.experts)
                raise StrategyError(f"strategy={self.strategy!r} fits no mesh: {whys}")
            # First every mesh by bounds alone: quick, and good answers prune the rest.
            for candidate in sorted(self.candidates, key=lambda c: c.cost_s):
                if not candidate.bounded:
                    self._solve(candidate, exact=False)
            for candidate in self.candidates:
                if not candidate.hints and self._is_open(candidate):
                    self._squeeze(candidate)
            self._close()
            self._look_finer()
            self._close()
            self._raise_floor()
        except KeyboardInterrupt:
            if self.best is None:
                raise SearchInterrupted("interrupted before any plan was found") from None
            self.interrupted = True
            self.tell("interrupted: the best plan so far is used")
        if self.best is None:
            self.tell("nothing fits yet: looking for the least memory that would")
            # The time may have run out before an answer was found that is there: fitting comes
            # before haste.
            for candidate in self.candidates:
                if candidate.least is None:
                    candidate.least = least_memory(candidate.problem, candidate.keep)
                    if candidate.least.peak_bytes <= self.limit_bytes:
                        self._offer(candidate, candidate.least.choice)
        if self.best is None:
            raise self._infeasible()
        return self._found()

    def _numbers(self, mesh: LogicalMesh) -> MeshProblem:
        return build_problem(self.analysis, self.machine, mesh, self.limit_bytes)

    def _priced(self, numbers: MeshProblem) -> Candidate | None:
        """A mesh as a candidate; None where it cannot have what the user asks for."""
        self.tell(f"pricing layouts on mesh {numbers.mesh}")
        try:
            granted = grant(numbers, self.intents)
        except IntentError as error:
            self.refusals.append(error)
            return None
        tied = granted.tied(self.analysis.alike)
        keep = tied.keep(granted.keep) if granted.allowed else None
        return Candidate(numbers, granted, tied, keep, [])

    def _consider(self, candidate: Candidate) -> None:
        """A mesh just priced: its experts, unless it is large and its bound says what they cost."""
        if candidate.is_large and self.best is not None:
            self._solve(candidate, exact=False)
            if candidate.bound_s >= self.best[0] * (1 - TOLERANCE):
                self._pass_over_experts(candidate)
                return
        self._experts(candidate)
        if candidate.is_large and not candidate.bounded:
            self._solve(candidate, exact=False)

    def _close(self) -> None:
        """CP-SAT for the meshes that bounds leave open."""
        still_open = sorted(filter(self._is_open, self.candidates), key=lambda c: c.bound_s)
        for i, candidate in enumerate(still_open):
            if self._is_open(candidate) and self._has_time():
                self._solve(candidate, exact=True, share=len(still_open) - i)

    def _has_time(self) -> bool:
        return time.monotonic() < self.deadline or self.best is None

    def _look_finer(self) -> None:
        """Meshes of more axes: most are ruled out by a bound as soon as they are priced.

        Those that split an axis of the best mesh come first: what is good there is possible here.
        """
        if self.best is None:
            return
        start, choice = self.best[1], self.best[1].tied.lift(self.best[2])
        whole = start.numbers.layouts
        waiting = sorted(self.finer, key=lambda mesh: refinement(mesh, whole.mesh) is None)
        for mesh in waiting:
            if not self._has_time():
                break
            numbers = self._numbers(mesh)
            if numbers.cells > _MOST_CELLS:
                continue
            candidate = self._priced(numbers)
            if candidate is not None:
                # No answer is faster than every decision at its fastest.
                variables = candidate.problem.variables
                candidate.bound_s = sum(float(v.cost_s.min()) for v in variables)
                if self._is_open(candidate):
                    parts = refinement(mesh, whole.mesh)
                    hint = parts and candidate.tied.lower(
                        refined(numbers.layouts, whole, parts, choice)
                    )
                    self._solve(candidate, exact=False, hint=hint)
                if self._is_open(candidate) or self.best[1] is candidate:
                    self.candidates.append(candidate)
                else:
                    self.ruled_out.append(self._rival(candidate))
            self.finer.remove(mesh)  # here, so that one which Ctrl-C cuts short counts as open

    def _meshes(self) -> Sequence[LogicalMesh]:
        """Meshes the strategy makes sense on.

        Raises:
            StrategyError: there is none, or the strategy means nothing for the program.
        """
        if self.strategy == "auto":
            return self.meshes
        expert = self.strategies[self.strategy]
        if why := lacking(self.analysis, expert):
            raise StrategyError(f"strategy={self.strategy!r} does not apply: {why}")
        needs = expert.needs
        named = [m for m in self.meshes if needs <= {a.name for a in m.axes}]
        fitting = [m for m in named if suits(expert, m)]
        if not named:
            have = " or ".join(f"({m})" for m in self.meshes)
            raise StrategyError(
                f"strategy={self.strategy!r} lays out axes {', '.join(sorted(needs))}; the mesh has"
                f" {have}. Name the axes so, or use strategy='auto'."
            )
        return fitting or named

    def _pass_over_experts(self, candidate: Candidate) -> None:
        """Rows of experts on a mesh on which nothing is faster than the best."""
        remark = self._why_none(False, candidate.bound_s)
        for name, _ in self._suitable(candidate):
            self.experts.append(Rival(name, str(candidate.numbers.mesh), None, None, remark))

    def _suitable(self, candidate: Candidate) -> Iterator[tuple[str, Strategy]]:
        """The experts who mean something on a mesh; a row for each other that its axes suit."""
        mesh = candidate.numbers.mesh
        for name, expert in self.strategies.items():
            if not suits(expert, mesh) or name in self.lacking:
                continue
            if why := undivided(candidate.numbers, expert):
                self.experts.append(refused(expert, str(mesh), why))
                continue
            yield name, expert

    def _experts(self, candidate: Candidate) -> None:
        """Expert layouts on a mesh: rivals, hints, and a floor under the answer."""
        mesh = candidate.numbers.mesh
        for name, expert in self._suitable(candidate):
            keep = candidate.only(expert)
            solution = solve(
                candidate.problem,
                keep=keep,
                cutoff_s=_NOT_A_RIVAL * self.best[0] if self.best is not None else float("inf"),
                time_limit_s=max(self.deadline - time.monotonic(), 2.0) / 10,
                tolerance=TOLERANCE,
                max_sweeps=_EXPERT_SWEEPS,
                exact=False,
                seed=self.seed,
            )
            if solution.gap > TOLERANCE and not solution.infeasible:
                self.floors.append((candidate, keep, solution))
            if solution.choice is None:
                remark = self._why_none(solution.infeasible, solution.bound_s)
                self.experts.append(Rival(name, str(mesh), None, None, remark))
                continue
            peak = candidate.problem.peak_bytes(solution.choice)
            self.experts.append(Rival(name, str(mesh), solution.cost_s, peak))
            self._offer(candidate, solution.choice)

    def _raise_floor(self) -> None:
        """Experts that bounds leave open, exactly: where memory is tight one may be ahead yet."""
        if self.best is None:
            return
        below = [f for f in self.floors if f[2].bound_s < self.best[0] * (1 - TOLERANCE)]
        below.sort(key=lambda f: f[2].bound_s)
        end = max(self.deadline, time.monotonic() + _FLOOR * self.time_limit_s)
        for k, (candidate, keep, known) in enumerate(below):
            if known.bound_s >= self.best[0] * (1 - TOLERANCE):
                continue
            solution = solve(
                candidate.problem,
                keep=keep,
                hints=[] if known.choice is None else [known.choice],
                cutoff_s=self.best[0],
                time_limit_s=(end - time.monotonic()) / (len(below) - k),
                tolerance=TOLERANCE,
                seed=self.seed,
            )
            if solution.choice is not None and solution.cost_s < self.best[0]:
                self._offer(candidate, solution.choice)

    def _offer(self, candidate: Candidate, choice: tuple[int, ...]) -> None:
        candidate.hints.append(choice)
        cost = candidate.problem.cost_s(choice)
        if self.best is None or cost < self.best[0]:
            self.best = (cost, candidate, choice)
            self.tell(f"mesh {candidate.numbers.mesh}: best so far {units.time(cost)}")

    def _is_open(self, candidate: Candidate) -> bool:
        """Whether a mesh may still hold a plan that is noticeably better than the best."""
        if candidate.infeasible:
            return False
        return self.best is None or candidate.bound_s < self.best[0] * (1 - GOOD_ENOUGH)

    def _solve(
        self,
        candidate: Candidate,
        *,
        exact: bool,
        share: int = 1,
        hint: tuple[int, ...] | None = None,
    ) -> None:
        """Improve on what is known of a mesh.

        Args:
            candidate: it.
            exact: whether CP-SAT may close what bounds leave open.
            share: how many wait for the time that is left, this one among them.
            hint: an answer to start from, which need not fit.
        """
        mesh, candidate.bounded = str(candidate.numbers.mesh), True

        def on_better(cost: float, bound: float) -> None:
            if bound > float("-inf") and cost < float("inf"):
                self.tell(
                    f"mesh {mesh}: {units.time(cost)}, bound {units.time(max(bound, 0.0))},"
                    f" gap {gap(cost, bound):.1%}"
                )

        solution = solve(
            candidate.problem,
            keep=candidate.keep,
            hints=[*candidate.hints, *([hint] if hint else [])],
            cutoff_s=self._cutoff_s(candidate),
            time_limit_s=max(self.deadline - time.monotonic(), 0.3) / share,
            tolerance=GOOD_ENOUGH if exact else TOLERANCE,
            exact=exact,
            screen=not exact and not (self.best and self.best[1] is candidate),
            seed=self.seed,
            on_better=on_better,
        )
        candidate.bound_s = max(candidate.bound_s, solution.bound_s)
        candidate.infeasible |= solution.infeasible
        if solution.choice is not None:
            self._offer(candidate, solution.choice)

    def _cutoff_s(self, candidate: Candidate) -> float:
        """What answers must cost less than to be of interest: on finer meshes, noticeably less."""
        if self.best is None:
            return float("inf")
        as_good = self._is_coarse(candidate) or candidate is self.best[1]
        return self.best[0] * (1 + TOLERANCE if as_good else 1 - GOOD_ENOUGH)

    def _is_coarse(self, candidate: Candidate) -> bool:
        return candidate.numbers.mesh in self.meshes

    def _squeeze(self, candidate: Candidate) -> None:
        """Where bounding found nothing that fits: the layout that needs least memory, improved."""
        mesh, problem = candidate.numbers.mesh, candidate.problem
        self.tell(f"mesh {mesh}: looking for a layout that fits {units.size(self.limit_bytes)}")
        left = max(self.deadline - time.monotonic(), 1.0) / 2
        candidate.least = least_memory(problem, candidate.keep, left, candidate.hints)
        if candidate.least.peak_bytes <= problem.limit_bytes:
            self._offer(candidate, candidate.least.choice)
            self._solve(candidate, exact=False)
        candidate.infeasible |= candidate.least.bound_bytes > problem.limit_bytes

    def _why_none(self, infeasible: bool, bound_s: float) -> str:
        if infeasible:
            return "does not fit"
        if self.best is not None and bound_s > self.best[0] * (1 - GOOD_ENOUGH):
            return f"ruled out: what fits takes {units.time(bound_s)} or more"
        return "found no layout that fits"

    def _rival(self, candidate: Candidate) -> Rival:
        mesh = str(candidate.numbers.mesh)
        if not candidate.hints:
            remark = self._why_none(candidate.infeasible, candidate.bound_s)
            return Rival(self.strategy, mesh, None, None, remark)
        problem = candidate.problem
        best = min(candidate.hints, key=problem.cost_s)
        remark = f"bound {units.time(max(candidate.bound_s, 0.0))}"
        if self.best is not None and candidate.bound_s >= self.best[0]:
            remark += ": ruled out by it"
        cost = problem.cost_s(best)
        return Rival(self.strategy, mesh, cost, problem.peak_bytes(best), remark)

    def _found(self) -> Found:
        assert self.best is not None
        cost, best, tied_choice = self.best
        numbers, choice, alike = best.numbers, best.tied.lift(tied_choice), best.tied.saved
        # Interrupted before every mesh was bounded, nothing is known of the ones left.
        others = [c for c in self.candidates if c is not best]
        # Finer meshes are extra: what is open there is counted, and is no part of the bound.
        bounds = [c.bound_s for c in others if self._is_coarse(c)]
        bound = max(min(*bounds, best.bound_s, cost), 0.0) if self.priced else 0.0
        loose = self._loosened(best, choice)
        if loose is not None and loose.choice is not None and loose.cost_s < cost:
            # The bound of tied answers does not hold for this one; its own does.
            cost, choice, alike = loose.cost_s, loose.choice, 0
            bound = max(min(*bounds, loose.bound_s, cost), 0.0) if self.priced else 0.0
        left = gap(cost, bound)
        rivals = [*self.experts, *map(self._rival, others), *self.ruled_out]
        certificate = Certificate(
            status="optimal" if left <= GOOD_ENOUGH else "feasible",
            lower_bound_s=bound,
            gap=left,
            search_s=time.monotonic() - self.begun,
            rivals=tuple(sorted(rivals, key=lambda r: (r.step_s is None, r.step_s or 0.0))),
            alike=alike,
            open_meshes=len(self.finer) + sum(not self._is_coarse(c) for c in others),
        )
        return Found(Answer(numbers, choice), certificate, self.strategy, self.interrupted)

    def _loosened(self, candidate: Candidate, choice: tuple[int, ...]) -> Solution | None:
        """Where memory is tight: an answer in which repeated layers may differ."""
        problem = candidate.granted.problem
        tight = problem.peak_bytes(choice) > _TIGHT * self.limit_bytes
        if self.strategy != "auto" or not candidate.tied.saved or not tight or self.interrupted:
            return None
        self.tell("memory is tight: letting repeated layers differ")
        return solve(
            problem,
            keep=candidate.granted.keep,
            hints=[choice],
            time_limit_s=max(self.deadline - time.monotonic(), 1.0),
            tolerance=TOLERANCE,
            max_sweeps=_LOOSE_SWEEPS,
            exact=False,
            seed=self.seed,
        )

    def _infeasible(self) -> InfeasibleError:
        found = [(c.least, c) for c in self.candidates if c.least is not None]
        least, candidate = min(found, key=lambda item: item[0].peak_bytes)
        return explain_infeasible(
            Answer(candidate.numbers, candidate.tied.lift(least.choice)),
            least,
            min(other.bound_bytes for other, _ in found),
            self.limit_bytes,
            self.machine.name,
            self.strategy,
        )
