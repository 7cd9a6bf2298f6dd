"""What changes from one plan to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoshard.plan import units
from autoshard.plan.model import Collective, Constraint, LeafPlan, Plan
from autoshard.program.spec import Spec

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Change:
    """One word or number of the plan, before and after."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SpecChange:
    """The layout of one leaf, before and after; None where the leaf does not exist."""

    path: str
    before: Spec | None
    after: Spec | None
    side: str = "input"


@dataclass(frozen=True, slots=True)
class ConstraintChange:
    """One layout imposed inside the program, before and after; None where it is not imposed."""

    before: Constraint | None
    after: Constraint | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """All collectives of one kind over the same axes, in one step."""

    count: int = 0
    bytes: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """Collectives of one kind, before and after."""

    kind: str
    axes: tuple[str, ...]
    before: Traffic
    after: Traffic


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """What changes from one plan to another; false where nothing does.

    How long the search took, versions of packages, and the rivals are not part of it: two plans
    that run the same do not differ.

    Attributes:
        identity: program, machine, strategy, mesh, devices' order: those that changed.
        specs: leaves whose layout changed, came, or went.
        constraints: layouts inside the program, by equation and slot.
        collectives: by kind and axes, those that changed.
        step_s, peak_bytes: predicted, (before, after), also where equal.
    """

    identity: tuple[Change, ...]
    specs: tuple[SpecChange, ...]
    constraints: tuple[ConstraintChange, ...]
    collectives: tuple[TrafficChange, ...]
    step_s: tuple[float, float]
    peak_bytes: tuple[float, float]

    @property
    def constraints_added(self) -> tuple[Constraint, ...]:
        return tuple(c.after for c in self.constraints if c.before is None and c.after is not None)

    @property
    def constraints_removed(self) -> tuple[Constraint, ...]:
        return tuple(c.before for c in self.constraints if c.after is None and c.before is not None)

    @property
    def constraints_changed(self) -> tuple[ConstraintChange, ...]:
        return tuple(c for c in self.constraints if c.before is not None and c.after is not None)

    def __bool__(self) -> bool:
        return bool(
            self.identity
            or self.specs
            or self.constraints
            or self.collectives
            or self.step_s[0] != self.step_s[1]
            or self.peak_bytes[0] != self.peak_bytes[1]
        )

    def __str__(self) -> str:
        return "\n".join(_lines(self)) if self else "no differences"


def diff(before: Plan, after: Plan) -> PlanDiff:
    """What changes from one plan to another."""
    return PlanDiff(
        identity=tuple(_identity(before, after)),
        specs=(
            *_specs(before.inputs, after.inputs, "input"),
            *_specs(before.outputs, after.outputs, "output"),
        ),
        constraints=tuple(_constraints(before, after)),
        collectives=tuple(_collectives(before, after)),
        step_s=(before.prediction.step_s, after.prediction.step_s),
        peak_bytes=(before.prediction.peak_bytes, after.prediction.peak_bytes),
    )


def _identity(before: Plan, after: Plan) -> Iterator[Change]:
    rows = (
        ("function", before.program.name, after.program.name),
        ("code", before.program.fingerprint[:12], after.program.fingerprint[:12]),
        ("machine", before.machine.name, after.machine.name),
        (
            "memory limit",
            units.size(before.machine.memory_limit_bytes),
            units.size(after.machine.memory_limit_bytes),
        ),
        ("strategy", before.strategy, after.strategy),
        ("remat", before.remat, after.remat),
        ("microbatches", str(before.microbatches), str(after.microbatches)),
        ("pipeline", str(before.pipeline or "none"), str(after.pipeline or "none")),
        ("objective", before.objective, after.objective),
        ("copies", str(before.copies), str(after.copies)),
        ("mesh", str(before.mesh), str(after.mesh)),
    )
    yield from (Change(*row) for row in rows if row[1] != row[2])
    if str(before.mesh) == str(after.mesh) and before.mesh.device_order != after.mesh.device_order:
        yield Change("order of devices on the mesh", *map(_order, (before, after)))


def _order(plan: Plan) -> str:
    shown = " ".join(map(str, plan.mesh.device_order[:8]))
    return shown + (" ..." if len(plan.mesh.device_order) > 8 else "")


def _specs(
    before: tuple[LeafPlan, ...], after: tuple[LeafPlan, ...], side: str
) -> Iterator[SpecChange]:
    old = {leaf.path: leaf.spec for leaf in before}
    new = {leaf.path: leaf.spec for leaf in after}
    for path in dict.fromkeys((*old, *new)):
        if old.get(path) != new.get(path):
            yield SpecChange(path, old.get(path), new.get(path), side)


def _constraints(before: Plan, after: Plan) -> Iterator[ConstraintChange]:
    old = {(c.at, c.slot): c for c in before.constraints}
    new = {(c.at, c.slot): c for c in after.constraints}
    for key in dict.fromkeys((*old, *new)):
        a, b = old.get(key), new.get(key)
        if a is None or b is None or a.specs != b.specs:
            yield ConstraintChange(a, b)


def _collectives(before: Plan, after: Plan) -> Iterator[TrafficChange]:
    old, new = _traffic(before.collectives), _traffic(after.collectives)
    for key in sorted({*old, *new}):
        a, b = old.get(key, Traffic()), new.get(key, Traffic())
        if a != b:
            yield TrafficChange(*key, a, b)


def _traffic(collectives: tuple[Collective, ...]) -> dict[tuple[str, tuple[str, ...]], Traffic]:
    sums: dict[tuple[str, tuple[str, ...]], Traffic] = {}
    for c in collectives:
        s = sums.get((c.kind, c.axes), Traffic())
        sums[c.kind, c.axes] = Traffic(
            s.count + c.count, s.bytes + c.count * c.bytes, s.seconds + c.seconds
        )
    return sums


def _lines(d: PlanDiff) -> Iterator[str]:
    for change in d.identity:
        yield f"{change.what}: {change.before} -> {change.after}"
    yield _number("predicted step", *d.step_s, units.time(d.step_s[0]), units.time(d.step_s[1]))
    peaks = map(units.size, d.peak_bytes)
    yield _number("predicted peak per device", *d.peak_bytes, *peaks)
    if d.specs:
        yield f"specs: {len(d.specs)} changed"
        yield from _some(
            [f"{_side(s)}{s.path}: {_spec(s.before)} -> {_spec(s.after)}" for s in d.specs]
        )
    if d.constraints:
        counts = (d.constraints_added, d.constraints_removed, d.constraints_changed)
        yield "constraints: {} added, {} removed, {} changed".format(*map(len, counts))
        yield from _some([_constraint(c) for c in d.constraints])
    if d.collectives:
        yield "collectives, predicted per step:"
        yield from _some([_one_traffic(c) for c in d.collectives])


def _number(what: str, before: float, after: float, old: str, new: str) -> str:
    if before == after:
        return f"{what}: {old}, unchanged"
    return f"{what}: {old} -> {new} ({units.ratio(before, after)})"


def _some(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  ... and {len(lines) - _SHOWN} more"


def _side(change: SpecChange) -> str:
    return "output " if change.side == "output" else ""


def _spec(spec: Spec | None) -> str:
    return "none" if spec is None else str(spec)


def _constraint(change: ConstraintChange) -> str:
    some = change.after or change.before
    assert some is not None
    sides = (
        "none" if c is None else " then ".join(map(str, c.specs))
        for c in (change.before, change.after)
    )
    line = f" ({some.source})" if some.source else ""
    return f"{some.primitive or 'equation'} {some.at} {some.slot}{line}: {' -> '.join(sides)}"


def _one_traffic(change: TrafficChange) -> str:
    def one(t: Traffic) -> str:
        return f"{t.count} x, {units.size(t.bytes)}, {units.time(t.seconds)}" if t.count else "none"

    name = f"{change.kind} over {', '.join(change.axes)}"
    return f"{name}: {one(change.before)} -> {one(change.after)}"
