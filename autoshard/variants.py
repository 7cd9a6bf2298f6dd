"""Which form of a step to run: rematerialised or not, in how many microbatches.

Both only cost time, in the cost model, and save memory. So the step as written is searched without
any limit first: what that finds is faster than any other form, and where it fits it is the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from autoshard.errors import InfeasibleError, MicrobatchError
from autoshard.options import Options
from autoshard.plan.model import Plan, Rival
from autoshard.trace.function import Traced
from autoshard.trace.variants import NOTHING_TO_REMATERIALISE, PLAIN, Variant, Variants

# More microbatches than this are launches and little else.
_MOST_MICROBATCHES = 64
# As the search has it: the cost model is coarser than that.
_AS_GOOD = 1e-2
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
        only = Variant(options.microbatch, bool(options.remat))
        done = _planned(variants, only, limit_bytes, options.time_limit_s, search)
        if only.remat and not variants.rematerialises(only.microbatches):
            done = _noted(done, NOTHING_TO_REMATERIALISE)
        return done
    return _Choice(variants, options, limit_bytes, search, tell).run()


def _planned(
    variants: Variants, variant: Variant, limit_bytes: float, seconds: float, search: Search
) -> Candidate:
    found = search(variants.of(variant), limit_bytes, seconds)
    plan = replace(found.plan, remat=variant.remat, microbatches=variant.microbatches)
    return replace(found, plan=plan)


def _noted(candidate: Candidate, note: str) -> Candidate:
    plan = candidate.plan
    return replace(candidate, plan=replace(plan, notes=(*plan.notes, note)))


class _Choice:
    """The choice while it is made.

    Attributes:
        best: the fastest form that fits, so far.
        rivals: the others, as the report shows them.
        bound_s: nothing that was searched is faster.
        refused: of forms that do not fit.
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
        self.notes: list[str] = []

    def run(self) -> Candidate:
        counts = self._counts()
        first = min(counts)
        free_s = None
        if first == 1 and self.options.remat in ("auto", False):
            # Where memory does not bind, nothing beats the step as written.
            whole = self._plan(PLAIN, float("inf"))
            if whole.plan.prediction.peak_bytes <= self.limit_bytes or whole.interrupted:
                return self._fits_as_written(whole)
            free_s = whole.plan.prediction.step_s
        for remat in self._remats():
            before_s = float("inf")
            for count in counts:
                variant = Variant(count, remat)
                try:
                    if remat and not self.variants.rematerialises(count):
                        self.notes.append(NOTHING_TO_REMATERIALISE)
                        break
                    found = self._try(variant)
                except MicrobatchError as error:
                    self.notes.append(f"not taken in more microbatches: {error}")
                    break
                if found is None:
                    continue
                step_s = found.plan.prediction.step_s
                as_good = free_s is not None and step_s <= free_s * (1 + _AS_GOOD)
                if found.interrupted or as_good:
                    return self._result()
                if step_s >= before_s:
                    break  # more of them only cost more
                before_s = step_s
        return self._result()

    def _fits_as_written(self, whole: Candidate) -> Candidate:
        return _noted(
            whole,
            "as written: the fastest layout fits, so neither microbatches nor rematerialisation"
            " were looked at",
        )

    def _remats(self) -> tuple[bool, ...]:
        asked = self.options.remat
        return (False, True) if isinstance(asked, str) else (asked,)

    def _counts(self) -> list[int]:
        asked = self.options.microbatch
        if not isinstance(asked, str):
            return [asked]
        return [1, *self._more()]

    def _more(self) -> Iterator[int]:
        count = 2
        while count <= _MOST_MICROBATCHES:
            yield count
            count *= 2

    def _plan(self, variant: Variant, limit_bytes: float) -> Candidate:
        self.tell(f"step {variant}")
        left_s = max(0.0, self.deadline - time.monotonic())
        return _planned(self.variants, variant, limit_bytes, left_s * _SHARE, self.search)

    def _try(self, variant: Variant) -> Candidate | None:
        """A form planned within the limit, and held against the best; None if it does not fit."""
        try:
            found = self._plan(variant, self.limit_bytes)
        except InfeasibleError as error:
            self.refused.append((variant, error))
            self.rivals.append(
                Rival(f"step {variant}", "", None, error.least_bytes, "does not fit")
            )
            return None
        self.bound_s = min(self.bound_s, found.plan.certificate.lower_bound_s)
        loser: Candidate | None = found
        if self.best is None or (
            found.plan.prediction.step_s < self.best.plan.prediction.step_s * (1 - _AS_GOOD)
        ):
            self.best, loser = found, self.best
        if loser is not None:
            p, form = loser.plan.prediction, Variant(loser.plan.microbatches, loser.plan.remat)
            row = Rival(f"step {form}", str(loser.plan.mesh), p.step_s, p.peak_bytes)
            self.rivals.append(row)
        return found

    def _result(self) -> Candidate:
        if self.best is None:
            raise self._infeasible()
        plan = self.best.plan
        certificate = plan.certificate
        step_s = plan.prediction.step_s
        bound_s = min(certificate.lower_bound_s, self.bound_s)
        gap = max(0.0, (step_s - bound_s) / step_s) if step_s else 0.0
        loose = certificate.status == "optimal" and gap > _AS_GOOD
        certificate = replace(
            certificate,
            status="feasible" if loose else certificate.status,
            lower_bound_s=bound_s,
            gap=gap,
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
            f"{error}\nThis is the step {variant}, of all that were tried ({tried}) the one that"
            f" needs least.{more}",
            error.least_bytes,
        )
