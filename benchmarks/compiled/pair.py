"""One case planned, compiled (or found compiled), and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoshard.api import autoshard
from autoshard.plan.model import Plan
from autoshard.verify import cache
from autoshard.verify.compare import Comparison, compare
from autoshard.verify.witness import Witness, merged
from benchmarks.compiled.cases import Case


@dataclass(frozen=True)
class Pair:
    """What was predicted of a case and what was compiled.

    Attributes:
        key: of the plan; what was compiled for another key says nothing about it.
        found: None where nobody compiled this plan.
    """

    case: Case
    key: str
    plan: Plan
    found: Comparison | None


def pair(case: Case, known: Mapping[str, Witness], compiling: bool) -> Pair:
    """Plan a case and compare it.

    Args:
        case: what.
        known: what was compiled before, by the plan's key.
        compiling: whether plans that are not known are compiled.

    Raises:
        NoCompilerError: it is to be compiled, and the machine's compiler is not installed.
    """
    entry = case.entry()
    step, args = entry.build(case.batch_size)
    options = {
        "donate_argnums": entry.donate_argnums,
        "devices": case.on,
        "time_limit_s": case.time_limit_s,
        **case.asked,
    }
    sharded = autoshard(step, strategy=case.strategy, **options)
    plan = sharded.plan_for(*args)
    key = cache.plan_key(plan, frozenset(entry.donate_argnums))
    if key in known:
        return Pair(case, key, plan, compare(plan, known[key]))
    if not compiling:
        kept = cache.load(cache.place(plan, frozenset(entry.donate_argnums)))
        return Pair(case, key, plan, compare(plan, merged(kept)) if kept else None)
    witness = merged(sharded.verify(*args).witness)
    return Pair(case, key, plan, compare(plan, witness))
