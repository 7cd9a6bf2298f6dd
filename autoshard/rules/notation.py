"""Rules as text: `ijk,ikl->ijl {k:add}`.

A letter is a factor, `_` a dimension that stays whole or has size 1, `()` a scalar. Braces list the
factors that are not parallel.
"""

from __future__ import annotations

from autoshard.program.rule import Dims, FactorKind, Rule

_LETTERS = "ijklmnopqrstuvwxyzabcdefgh"


def letter(factor: int) -> str:
    """The name of a factor: i, j, k, ..., then i1, j1, ..."""
    again, index = divmod(factor, len(_LETTERS))
    return _LETTERS[index] + (str(again) if again else "")


def notation(rule: Rule, sizes: bool = False) -> str:
    """One line of text.

    Args:
        rule: what to print.
        sizes: add the factors' sizes, as in `ij->i i=8 j=16`.
    """

    def one(dims: Dims) -> str:
        return "".join("_" if f is None else letter(f) for f in dims) or "()"

    text = f"{','.join(map(one, rule.operands))}->{','.join(map(one, rule.results))}"
    special = [
        f"{letter(i)}:{f.combiner.value if f.combiner else f.kind.value}"
        for i, f in enumerate(rule.factors)
        if f.kind is not FactorKind.PARALLEL
    ]
    if special:
        text += f" {{{','.join(special)}}}"
    if sizes:
        text += "".join(f" {letter(i)}={f.size}" for i, f in enumerate(rule.factors))
    return text if rule.known else f"{text} (no rule)"
