"""Rules of kernels that users bring, in one line of factor notation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autoshard.program.rule import Combiner, Dims, Factor, FactorKind, OpClass, Rule
from autoshard.rules.base import OpView, RuleError, opaque
from autoshard.rules.registry import register

Names = Sequence[Sequence[str | None]]
Special = dict[str, FactorKind | Combiner]

_SPECIAL = re.compile(r"^(.*?)(?:\s*\{([^}]*)\})?$")
_KINDS = {kind.value: kind for kind in (FactorKind.WHOLE, FactorKind.PARALLEL)}
_COMBINERS = {combiner.value: combiner for combiner in Combiner}


def rule(primitive: str, notation: str) -> None:
    """Say how a primitive of your own may be split; for all programs traced from then on.

    A letter is a factor, one for each dimension; `_` is a dimension that stays whole, `()` a
    scalar. A letter that stands on no result says in braces what splitting it means: `add`, `max`,
    `min`, `mul` where parts of a result are combined that way, `whole` where it may not be split.

        rule("my_attention", "bqhd,bkhd,bkhd->bqhd {k:whole}")
        rule("my_matmul", "mk,kn->mn {k:add}")

    The primitive must be one that XLA can split, as it can whatever is lowered to its own ops.
    Custom calls, of `jax.ffi` or Pallas, cannot be: lay them out by `jax.shard_map`, or give them a
    `sharding_rule` by `custom_partitioning`; both are kept.

    Args:
        primitive: the name of a `jax.extend.core.Primitive`.
        notation: its operands, `->`, its results.

    Raises:
        ValueError: it is no such notation, or the primitive has a rule already.
    """
    operands, results, special = _parsed(notation)

    @register(primitive)
    def said(op: OpView) -> Rule:
        return _rule(op, operands, results, special)


@register("custom_partitioning")
def custom_partitioning(op: OpView) -> Rule:
    """The `sharding_rule` that its author gave; no rule where none was given.

    Nor where it has batches of dimensions (`...`), dimensions of several factors, or permutations:
    what those mean is for the author's own code to say.
    """
    said = op.params.get("sharding_rule")
    operands = getattr(said, "operand_mappings", None)
    results = getattr(said, "result_mappings", None)
    if operands is None or results is None or getattr(said, "permutation_factors", None):
        return opaque(op)
    dims = [dim for mapping in (*operands, *results) for dim in mapping]
    if not all(isinstance(dim, str) and dim.isidentifier() for dim in dims):
        return opaque(op)
    whole = tuple(getattr(said, "need_replication_factors", None) or ())
    kept: Special = dict.fromkeys((*_only_in(operands, results), *whole), FactorKind.WHOLE)
    return _rule(op, operands, results, kept)


def _parsed(notation: str) -> tuple[Names, Names, Special]:
    match = _SPECIAL.match(notation.strip())
    body, braces = match.groups() if match else ("", None)
    sides = body.split("->")
    if len(sides) != 2:
        raise ValueError(f"{notation!r} is no rule: write operands -> results, as in 'mk,kn->mn'")
    operands, results = (
        tuple(_names(part.strip(), notation) for part in side.split(",")) for side in sides
    )
    special: Special = {}
    for item in filter(None, (part.strip() for part in (braces or "").split(","))):
        name, _, word = (part.strip() for part in item.partition(":"))
        kind = _KINDS.get(word) or _COMBINERS.get(word)
        if kind is None or not any(name in dims for dims in (*operands, *results)):
            words = ", ".join((*_KINDS, *_COMBINERS))
            raise ValueError(f"{item!r} in {notation!r}: write a factor of it, and one of {words}")
        special[name] = kind
    for name in _only_in(operands, results):
        if name not in special:
            raise ValueError(
                f"{name!r} in {notation!r} stands on no result: say what splitting it means, as in"
                f" {{{name}:add}} or {{{name}:whole}}"
            )
    return operands, results, special


def _names(dims: str, notation: str) -> tuple[str | None, ...]:
    if dims == "()":
        return ()
    if not re.fullmatch(r"[A-Za-z_]+", dims):
        raise ValueError(f"{dims!r} in {notation!r}: write a letter for each dimension, or ()")
    return tuple(None if letter == "_" else letter for letter in dims)


def _only_in(operands: Names, results: Names) -> Iterator[str]:
    """Factors of operands that stand on no result."""
    made = {name for dims in results for name in dims}
    seen = (name for dims in operands for name in dims)
    yield from dict.fromkeys(name for name in seen if name is not None and name not in made)


def _rule(op: OpView, operands: Names, results: Names, special: Special) -> Rule:
    """The rule of one equation.

    Raises:
        RuleError: it has other numbers of operands, results or dimensions, or sizes that differ.
    """
    sizes: dict[str, int] = {}
    for shapes, all_names in ((op.in_shapes, operands), (op.out_shapes, results)):
        if [len(shape) for shape in shapes] != [len(names) for names in all_names]:
            raise RuleError(f"the rule has dimensions {all_names}, the equation shapes {shapes}")
        for shape, names in zip(shapes, all_names, strict=True):
            for size, name in zip(shape, names, strict=True):
                if name is not None and sizes.setdefault(name, size) != size:
                    raise RuleError(f"factor {name!r} has sizes {sizes[name]} and {size}")
    factors: list[Factor] = []
    index: dict[str, int] = {}
    for name, size in sizes.items():
        if size > 1:
            index[name] = len(factors)
            factors.append(_factor(size, special.get(name, FactorKind.PARALLEL)))

    def dims(all_names: Names) -> tuple[Dims, ...]:
        return tuple(
            tuple(None if name is None else index.get(name) for name in names)
            for names in all_names
        )

    return Rule(tuple(factors), dims(operands), dims(results), OpClass.MOVE)


def _factor(size: int, kind: FactorKind | Combiner) -> Factor:
    if isinstance(kind, Combiner):
        return Factor(size, FactorKind.REDUCTION, kind)
    return Factor(size, kind)
