"""A function's equations, each with the values that it reads and makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Literal

from autoshard import _compat
from autoshard.program.rule import Rule
from autoshard.rules.base import OpView
from autoshard.rules.registry import rule_for
from autoshard.trace.walk import view

Call = tuple[Callable[..., Any], Sequence[Any]]

# What runs inside these is an equation of some case of its own.
CONTROL = ("cond", "scan", "while", *_compat.REMAT_BODIES)


@dataclass(frozen=True)
class Equation:
    """One equation of a jaxpr.

    Attributes:
        eqn: as JAX has it.
        op: as a rule sees it.
        rule: of it.
        operands: what it reads, literals left out.
        results: what it makes, unsharded.
        first: whether it stands in the first of the calls.
    """

    eqn: Any
    op: OpView
    rule: Rule
    operands: tuple[Any, ...]
    results: tuple[Any, ...]
    first: bool

    @property
    def dims(self) -> list[tuple[int | None, ...]]:
        """The rule's dimensions of `operands`."""
        pairs = zip(self.eqn.invars, self.rule.operands, strict=True)
        return [dims for atom, dims in pairs if is_value(atom)]

    def run(self, operands: Sequence[Any]) -> tuple[Any, ...]:
        """The results, from `operands`."""
        given = iter(operands)
        values = [a.val if isinstance(a, Literal) else next(given) for a in self.eqn.invars]
        return tuple(_compat.bind(self.eqn, values, dict(self.eqn.params)))


def equations(calls: Sequence[Call]) -> list[Equation]:
    """The equations of some calls, those of inner calls included; of equal ones the first."""
    jaxprs = [jax.make_jaxpr(fn)(*args) for fn, args in calls]
    found: dict[Any, tuple[Any, list[Any], list[Any]]] = {}
    first: list[int] = []

    def walk(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            inlined = _compat.inlined_body(eqn)
            if inlined is not None:
                body, inner, chosen = inlined
                results = walk(body, inner, [operands[k] for k in chosen])
            else:
                results = _compat.bind(eqn, operands, dict(eqn.params))
                if eqn.primitive.name not in CONTROL:
                    given = [v for a, v in zip(eqn.invars, operands, strict=True) if is_value(a)]
                    said = [a for a in eqn.invars if not is_value(a)]
                    key = (str(view(eqn)), str(eqn.params), str(said))
                    found.setdefault(key, (eqn, given, results))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    @jax.jit  # one program for all values: quicker than op by op
    def values(leaves: Sequence[Sequence[Any]]) -> list[tuple[list[Any], list[Any]]]:
        for closed, mine in zip(jaxprs, leaves, strict=True):
            walk(closed.jaxpr, closed.consts, mine)
            first.append(len(found))
        return [(operands, results) for _, operands, results in found.values()]

    made = values([jax.tree.leaves(args) for _, args in calls])
    return [
        Equation(eqn, op := view(eqn), rule_for(op), tuple(operands), tuple(results), k < first[0])
        for k, ((eqn, _, _), (operands, results)) in enumerate(
            zip(found.values(), made, strict=True)
        )
    ]


def is_value(atom: Any) -> bool:
    """Whether it is a variable, which a layout may split, and no literal."""
    return not isinstance(atom, Literal)
