"""One rule per primitive: a table that families fill and everything else reads.

A primitive without a rule is kept whole and says so (`known=False`); it is never guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from autoshard.program.rule import Rule
from autoshard.rules.base import OpView, RuleError, RuleFn, opaque

_RULES: dict[str, RuleFn] = {}


def _owner(fn: RuleFn) -> str:
    return f"{fn.__module__}:{fn.__qualname__}"


def register(*kinds: str) -> Callable[[RuleFn], RuleFn]:
    """Make the decorated function the rule of these primitives.

    Raises:
        ValueError: a primitive has a rule already; names both owners.
    """

    def add(fn: RuleFn) -> RuleFn:
        for kind in kinds:
            if kind in _RULES:
                raise ValueError(
                    f"primitive {kind!r} has two sharding rules: {_owner(_RULES[kind])} and "
                    f"{_owner(fn)}; remove it from one of their `register` lists"
                )
        _RULES.update(dict.fromkeys(kinds, fn))
        return fn

    return add


def known_kinds() -> frozenset[str]:
    """Names of all primitives that have a rule."""
    return frozenset(_RULES)


def rule_for(op: OpView) -> Rule:
    """The sharding rule of an equation; `opaque` if its primitive has none.

    Raises:
        RuleError: the primitive has a rule that does not understand this equation; names the
            primitive and its shapes.
    """
    fn = _RULES.get(op.kind)
    if fn is None:
        return opaque(op)
    try:
        rule = fn(op)
        _check(op, rule)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RuleError(
            f"the sharding rule {_owner(fn)} does not understand {op}: "
            f"{type(error).__name__}: {error}; its parameters are {dict(op.params)}"
        ) from error
    return rule


def _check(op: OpView, rule: Rule) -> None:
    """A rule has a dimension for every dimension, and factors that divide them."""
    for side, shapes, all_dims in (
        ("operand", op.in_shapes, rule.operands),
        ("result", op.out_shapes, rule.results),
    ):
        if len(shapes) != len(all_dims):
            raise ValueError(f"the rule has {len(all_dims)} {side}s, the equation {len(shapes)}")
        for k, (shape, dims) in enumerate(zip(shapes, all_dims, strict=True)):
            if len(shape) != len(dims):
                raise ValueError(f"{side} {k} has {len(shape)} dimensions, the rule {len(dims)}")
            for d, (size, factor) in enumerate(zip(shape, dims, strict=True)):
                if factor is not None and (size <= 1 or size % rule.factors[factor].size):
                    raise ValueError(
                        f"{side} {k} has size {size} in dimension {d}, which its factor of size "
                        f"{rule.factors[factor].size} does not divide"
                    )
