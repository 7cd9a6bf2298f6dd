"""Equations split over eight devices: their results, and what the compiled program sends.

A check is one equation with some of its factors split. Many checks make one program, since most of
what a small program costs is paid per program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.program.rule import FactorKind
from autoshard.rules.chatter import CHATTER
from autoshard.rules.elementwise import BINARY, NARY, RENAMING, UNARY
from autoshard.verify.collectives import collectives
from tests.rules.taken_apart import Equation

SIZES = {"a": 2, "b": 4}
# What one factor may be split over. Where "a" alone splits something, "b" is idle.
WAYS = (("a", "b"), ("b",), ("a",))
# Whose dimensions are all alike.
ALIKE = frozenset((*UNARY, *BINARY, *NARY, *RENAMING))
# Of equations that a form brings along: how many of a kind are tried, and in how many ways.
MOST, FEW = 8, 2

Split = dict[int, tuple[str, ...]]
Sent = Counter[tuple[str, str, str]]  # kind, axis, tensor


@dataclass(frozen=True)
class Check:
    """An equation and how its factors are split."""

    equation: Equation
    split: Split

    def __str__(self) -> str:
        return f"{self.equation.op}, factors split over {self.split}"

    def spec(self, dims: Sequence[int | None]) -> PartitionSpec:
        return PartitionSpec(*(None if f is None else self.split.get(f) for f in dims))

    def foreseen(self) -> Iterator[tuple[str, str, str]]:
        """What the rule says is sent: every result is combined along the axes of reductions."""
        rule, eqn = self.equation.rule, self.equation.eqn
        axes = [a for f, way in self.split.items() if rule.factors[f].combiner for a in way]
        for dims, var in zip(rule.results, eqn.outvars, strict=True):
            shape = [
                size // math.prod(SIZES[a] for a in self.split.get(f, ()))
                for size, f in zip(var.aval.shape, dims, strict=True)
            ]
            yield from (("all-reduce", axis, str(math.prod(shape))) for axis in axes)


def splits(equation: Equation) -> list[Split]:
    """Each factor over all axes it may be split over and over one, and neighbours over two."""
    legal = {
        f: [way for way in WAYS if factor.size % math.prod(SIZES[a] for a in way) == 0]
        for f, factor in enumerate(equation.rule.factors)
        if factor.kind is not FactorKind.WHOLE
    }
    found = [{f: way} for f, ways in legal.items() for way in dict.fromkeys(ways[:1] + ways[-1:])]
    order = list(legal)
    for f, g in zip(order, order[1:] + order[:1], strict=True):
        if f != g and ("a",) in legal[f] and ("b",) in legal[g]:
            found.append({f: ("a",), g: ("b",)})
    return found


def checks_of(found: Sequence[Equation]) -> list[Check]:
    """What to try: of the equations that a case is about every split, of others some of each kind.

    Equations whose dimensions are alike and those that another form brings along are legion. Their
    ways are taken in turn.
    """
    checks: list[Check] = []
    met: Counter[str] = Counter()
    for equation in found:
        kind, ways = equation.op.kind, splits(equation)
        if not equation.first or kind in ALIKE or kind in CHATTER:
            turn, met[kind] = met[kind], met[kind] + 1
            few = 1 if kind in ALIKE or kind in CHATTER else FEW
            ways = [ways[(few * turn + k) % len(ways)] for k in range(few)] if ways else []
            most = 1 if kind in CHATTER else MOST  # those are compiled one by one
            ways = ways if turn < most or (equation.first and kind not in CHATTER) else []
        checks += [Check(equation, way) for way in ways]
    return checks


def compiled(checks: Sequence[Check]) -> tuple[list[tuple[Any, ...]], Sent]:
    """The results of each check, and what the program of all of them sends."""
    devices = np.array(jax.devices()[:8]).reshape(tuple(SIZES.values()))
    mesh = Mesh(devices, tuple(SIZES))

    def program(given: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        return [c.equation.run(mine) for c, mine in zip(checks, given, strict=True)]

    given = [list(c.equation.operands) for c in checks]
    ins = [[NamedSharding(mesh, c.spec(d)) for d in c.equation.dims] for c in checks]
    outs = [tuple(NamedSharding(mesh, c.spec(d)) for d in c.equation.rule.results) for c in checks]
    run = jax.jit(program, in_shardings=(ins,), out_shardings=outs).lower(given).compile()
    sent: Sent = Counter()
    for seen in collectives(run.as_text(), SIZES):
        elements = math.prod(
            int(n) for n in seen.tensor.split("[")[1].split("]")[0].split(",") if n
        )
        sent.update({(seen.kind, axis, str(elements)): seen.count for axis in seen.axes})
    return run(jax.device_put(given, ins)), sent


def faults(checks: Sequence[Check]) -> list[str]:
    """What is wrong with some checks: numbers, or collectives that a rule did not foresee."""
    if not checks:
        return []
    results, sent = compiled(checks)
    wrong = [
        f"{check}: wrong numbers"
        for check, made in zip(checks, results, strict=True)
        if not all(map(agree, made, check.equation.results))
    ]
    foreseen = Counter(one for check in checks for one in check.foreseen())
    if sent == foreseen:
        return wrong
    if len(checks) > 1:  # one of them sends something: which?
        half = len(checks) // 2
        return faults(checks[:half]) + faults(checks[half:])
    if checks[0].equation.op.kind in CHATTER and set(sent) > set(foreseen):
        return wrong
    return [*wrong, f"{checks[0]}: sends {dict(sent)}, not {dict(foreseen)}"]


def agree(got: Any, want: Any) -> bool:
    if jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
        got, want = jax.random.key_data(got), jax.random.key_data(want)
    got, want = np.asarray(got), np.asarray(want)
    if not np.issubdtype(want.dtype, np.inexact) and want.dtype.kind in "biu":
        return np.array_equal(got, want)
    if want.dtype.kind not in "fc":  # of ml_dtypes
        got, want = got.astype(np.float32), want.astype(np.float32)
    scale = float(np.max(np.abs(want), initial=1.0, where=np.isfinite(want)))
    return np.allclose(got, want, rtol=2e-5, atol=1e-5 * scale, equal_nan=True)
