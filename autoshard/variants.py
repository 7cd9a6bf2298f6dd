"""Which form of a step to run: what its backward loops compute again, in how many microbatches.

Both only cost time, in the cost model, and save memory. So the form that computes nothing twice, of
the whole batch, is searched without any limit first: what that finds no other form can beat, and
where it fits it is the plan. Of the others only those are searched that may fit and may be faster
than what is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoshard.errors import InfeasibleError, MicrobatchError, SearchInterrupted
from autoshard.options import Options
from autoshard.plan.model import Plan, Rival
from autoshard.trace.function import Traced
from autoshard.trace.variants import AS_WRITTEN, NOTHING_TO_CHANGE, Variant, Variants

# More microbatches than this are launches and little else; so are this many times the microbatches
# of a form that fits.
_MOST_MICROBATCHES = 64
_FAR = 4
# As the search has it: the cost model is coarser than that.
_AS_GOOD = 1e-2
# By this much a form with another `remat` than the step's own must be predicted faster. Compilers
# fuse each form in their own way: GPT-1.3B compiled for v5e:2x4 with "selective" was predicted 3 %
# faster and judged 6 % slower, by attention's scores moved once more.
_WORTH_REWRITING = 0.05
# Of what is left of the time, what one form may take while others wait.
_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """One form, planned."""

    plan: Plan
    interrupted: bool = False


# (form, limit in bytes, time limit in seconds) -> plan; raises InfeasibleError.
Search = Callable[[Traced, float, float], Candidate]


def choose(
    variants: Variants,
    options: Options,
    limit_bytes: float,
    search: Search,
    tell: Callable[[str], None],
) -> Candidate:
    """Plan the forms that the options allow; the best of those that fit.

    Args:
        variants: of the step.
        options: `remat`, `microbatch`, `time_limit_s` are read.
        limit_bytes: per device.
        search: plans one form.
        tell: receives a line of text per form.

    Raises:
        InfeasibleError: no form fits; that of the form which needs least.
        MicrobatchError: the step cannot be taken in the microbatches asked for.
    """
    if "auto" not in (options.remat, options.microbatch):
        assert not isinstance(options.microbatch, str)
        only = Variant(options.microbatch, word(options.remat))
        done = _planned(variants, only, limit_bytes, options.time_limit_s, search)
        if only.remat != AS_WRITTEN and not variants.changes(only.remat):
            done = _noted(done, NOTHING_TO_CHANGE[only.remat])
        return done
    return _Choice(variants, options, limit_bytes, search, tell).run()


def word(remat: bool | str) -> str:
    """The form that an option other than "auto" asks for."""
    return remat if isinstance(remat, str) else "full" if remat else AS_WRITTEN


def _planned(
    variants: Variants, variant: Variant, limit_bytes: float, seconds: float, search: Search
) -> Candidate:
    found = search(variants.of(variant), limit_bytes, seconds)
    plan = replace(found.plan, remat=variant.remat, microbatches=variant.microbatches)
    return replace(found, plan=plan)


def _noted(candidate: Candidate, note: str) -> Candidate:
    plan = candidate.plan
    return replace(candidate, plan=replace(plan, notes=(*plan.notes, note)))


def _weighed_s(candidate: Candidate) -> float:
    """The step time, with what a rewrite must be worth."""
    plan = candidate.plan
    return plan.prediction.step_s * (1 + _WORTH_REWRITING * (plan.remat != AS_WRITTEN))


def _may_stay_as_written(variant: Variant, remats: tuple[str, ...]) -> bool:
    """Whether a form is rewritten where the step's own would be preferred, if nearly as fast."""
    return variant.remat != AS_WRITTEN and AS_WRITTEN in remats


class _Choice:
    """The choice while it is made.

    Attributes:
        best: the fastest form that fits, so far.
        rivals: the others, as the report shows them.
        bound_s: nothing that was searched is faster.
        refused: of forms that do not fit.
        least_count: by what is computed again, the least microbatches that may fit, once known.
        before_s: likewise, how fast the form with fewer microbatches is.
        notes: for people, in the plan.
    """

    def __init__(
        self,
        variants: Variants,
        options: Options,
        limit_bytes: float,
        search: Search,
        tell: Callable[[str], None],
    ) -> None:
        self.variants, self.options, self.limit_bytes = variants, options, limit_bytes
        self.search, self.tell = search, tell
        self.deadline = time.monotonic() + options.time_limit_s
        self.best: Candidate | None = None
        self.rivals: list[Rival] = []
        self.bound_s = float("inf")
        self.refused: list[tuple[Variant, InfeasibleError]] = []
        self.least_count: dict[str, int] = {}
        self.before_s: dict[str, float] = {}
        self.notes: list[str] = []

    def run(self) -> Candidate:
        counts, remats = self._counts(), self._remats()
        base = Variant(counts[0], remats[0])
        free = self._plan(base, float("inf"))
        if free.plan.prediction.peak_bytes <= self.limit_bytes:
            why = "its fastest layout fits, so no form that saves memory was looked at"
            free = _noted(free, f"step {base}: {why}")
            if free.interrupted or not _may_stay_as_written(base, remats):
                return free
            self._take(free)
            self._try(Variant(counts[0]))
            return self._result()
        if free.interrupted:
            raise SearchInterrupted(f"stopped before any layout that fits was found (step {base})")
        enough_s = free.plan.prediction.step_s * (1 + _AS_GOOD)
        for variant in (Variant(count, remat) for count in counts for remat in remats):
            try:
                if not self._is_worth_it(variant):
                    continue
                found = self._try(variant)
                enough = found is not None and found.plan.prediction.step_s <= enough_s
                if enough and _may_stay_as_written(variant, remats):
                    self._try(Variant(variant.microbatches))
            except MicrobatchError as error:
                self.notes.append(f"not taken in microbatches: {error}")
                break
            except SearchInterrupted:
                if self.best is None:
                    raise
                self.best = replace(self.best, interrupted=True)
                break
            if enough or (found is not None and found.interrupted):
                break
        return self._result()

    def _counts(self) -> list[int]:
        asked = self.options.microbatch
        if not isinstance(asked, str):
            return [asked]
        try:
            return [1, *(n for n in self.variants.counts() if n <= _MOST_MICROBATCHES)]
        except MicrobatchError as error:
            self.notes.append(f"not taken in microbatches: {error}")
            return [1]

    def _remats(self) -> tuple[str, ...]:
        asked = self.options.remat
        if asked != "auto":
            return (word(asked),)
        found = self.variants.remats()
        if found == (AS_WRITTEN,):
            self.notes.append(NOTHING_TO_CHANGE["full"])
        return found

    def _is_worth_it(self, variant: Variant) -> bool:
        """Whether a form may fit, and may be faster than the best that does."""
        count, remat = variant.microbatches, variant.remat
        if count < self.least_count.get(remat, 1):
            return False
        if self.best is not None:
            late = time.monotonic() > self.deadline
            if (
                late
                or count >= _FAR * self.best.plan.microbatches
                or self._is_getting_slower(remat)
            ):
                return False
        return True

    def _is_getting_slower(self, remat: str) -> bool:
        """Whether the last form of this kind that fits is slower than the best: more cost more."""
        assert self.best is not None
        last_s = self.before_s.get(remat, float("inf"))
        return last_s < float("inf") and last_s > self.best.plan.prediction.step_s

    def _plan(self, variant: Variant, limit_bytes: float) -> Candidate:
        self.tell(f"step {variant}")
        left_s = max(0.0, self.deadline - time.monotonic())
        return _planned(self.variants, variant, limit_bytes, left_s * _SHARE, self.search)

    def _try(self, variant: Variant) -> Candidate | None:
        """A form planned within the limit, and held against the best; None if it does not fit."""
        count, remat = variant.microbatches, variant.remat
        try:
            found = self._plan(variant, self.limit_bytes)
        except InfeasibleError as error:
            self.refused.append((variant, error))
            least_bytes = error.least_bytes or 0.0
            row = Rival(f"step {variant}", "", None, least_bytes or None, "does not fit")
            self.rivals.append(row)
            # Half the batch needs no less than half the memory.
            times = max(1.0, least_bytes / self.limit_bytes)
            self.least_count[remat] = max(count + 1, math.ceil(count * times))
            return None
        p = found.plan.prediction
        self.before_s[remat] = p.step_s
        self._take(found)
        return found

    def _take(self, found: Candidate) -> None:
        """Hold a form that fits against the best so far."""
        self.bound_s = min(self.bound_s, found.plan.certificate.lower_bound_s)
        loser: Candidate | None = found
        if self.best is None or _weighed_s(found) < _weighed_s(self.best):
            self.best, loser = found, self.best
        if loser is not None:
            plan = loser.plan
            form, q = Variant(plan.microbatches, plan.remat), plan.prediction
            self.rivals.append(Rival(f"step {form}", str(plan.mesh), q.step_s, q.peak_bytes))

    def _result(self) -> Candidate:
        if self.best is None:
            raise self._infeasible()
        plan = self.best.plan
        certificate, step_s = plan.certificate, plan.prediction.step_s
        bound_s = min(certificate.lower_bound_s, self.bound_s)
        open_ = max(0.0, (step_s - bound_s) / step_s) if step_s else 0.0
        loose = certificate.status == "optimal" and open_ > _AS_GOOD
        certificate = replace(
            certificate,
            status="feasible" if loose else certificate.status,
            lower_bound_s=bound_s,
            gap=open_,
            rivals=(*certificate.rivals, *self.rivals),
        )
        notes = (*plan.notes, *dict.fromkeys(self.notes))
        return replace(self.best, plan=replace(plan, certificate=certificate, notes=notes))

    def _infeasible(self) -> InfeasibleError | MicrobatchError:
        if not self.refused:
            return MicrobatchError(self.notes[-1])
        variant, error = min(self.refused, key=lambda each: each[1].least_bytes or float("inf"))
        tried = "; ".join(str(each) for each, _ in self.refused)
        more = "".join(f"\n{note}" for note in dict.fromkeys(self.notes))
        return InfeasibleError(
            f"{error}\nThis is the step {variant}, of those that were tried ({tried}) the one that"
            f" needs least.{more}",
            error.least_bytes,
        )
