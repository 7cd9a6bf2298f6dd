"""Rules as text: `ij,jk->ik {j:add}`.

A letter is a factor, in order of appearance; `_` is a dimension that stays whole or has size 1,
`()` a scalar. Braces list the factors that are not parallel.
"""

from __future__ import annotations

from autoshard.program.rule import Dims, FactorKind, Rule

_LETTERS = "ijklmnopqrstuvwxyzabcdefgh"


def notation(rule: Rule, sizes: bool = False) -> str:
    """One line of text.

    Args:
        rule: what to print.
        sizes: add the factors' sizes, as in `ij->i i=8 j=16`.
    """
    seen = (f for dims in (*rule.operands, *rule.results) for f in dims if f is not None)
    order = list(dict.fromkeys([*seen, *range(len(rule.factors))]))
    names = {factor: _name(place) for place, factor in enumerate(order)}

    def one(dims: Dims) -> str:
        return "".join("_" if f is None else names[f] for f in dims) or "()"

    text = f"{','.join(map(one, rule.operands))}->{','.join(map(one, rule.results))}"
    special = [
        f"{names[i]}:{f.combiner.value if f.combiner else f.kind.value}"
        for i in order
        if (f := rule.factors[i]).kind is not FactorKind.PARALLEL
    ]
    if special:
        text += f" {{{','.join(special)}}}"
    if sizes:
        text += "".join(f" {names[i]}={rule.factors[i].size}" for i in order)
    return text if rule.known else f"{text} (no rule)"


def _name(place: int) -> str:
    """i, j, k, ..., then i1, j1, ..."""
    again, index = divmod(place, len(_LETTERS))
    return _LETTERS[index] + (str(again) if again else "")
