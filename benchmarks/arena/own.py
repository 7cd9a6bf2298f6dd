"""Contenders of our own: the automatic plan, and the plans of experts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoshard.api import autoshard
from autoshard.errors import AutoshardError
from autoshard.plan.model import Plan
from autoshard.strategies import STRATEGIES
from autoshard.verify import cache
from autoshard.verify.witness import dump_options, dumped
from benchmarks.arena.cases import Case
from benchmarks.arena.compiled import Compiled, not_yet, remembered
from benchmarks.arena.summary import AUTO, FORMS

NAMES = (AUTO, FORMS, *STRATEGIES)
_ANY_FORM = {"remat": "auto", "microbatch": "auto"}


@dataclass(frozen=True)
class Planned:
    """A plan and what it was compiled to."""

    plan: Plan
    planning_s: float
    compiled: Compiled


def contend(
    case: Case, strategy: str, tell: Callable[[str], None], compiles: bool = True
) -> Planned:
    """Plan a case by one strategy and compile the plan.

    Args:
        case: what.
        strategy: an expert's, "auto", or "auto, any form".
        tell: is told what is being done.
        compiles: False where only what was compiled before is asked for.

    Raises:
        AutoshardError: the strategy does not apply, nothing fits, or there is no compiler.
    """
    entry = case.entry()
    step, args = entry.build(case.batch_size)
    options: dict[str, Any] = {"donate_argnums": entry.donate_argnums, "devices": case.on}
    tell("planning")
    if strategy == FORMS:
        strategy, options = AUTO, options | _ANY_FORM
    sharded = autoshard(step, strategy=strategy, **options)
    began_s = time.perf_counter()
    plan = sharded.plan_for(*args)
    planning_s = time.perf_counter() - began_s

    def compiling() -> Compiled:
        tell("compiling")
        return compile_here(lambda: sharded.lower(*args), time.perf_counter())

    key = cache.plan_key(plan, frozenset(entry.donate_argnums))
    compilers = tuple((name, version(name)) for name in ("jax", "jaxlib", "libtpu"))
    return Planned(
        plan, planning_s, remembered((key, compilers), compiling if compiles else not_yet)
    )


def compile_here(lower: Callable[[], Any], began_s: float) -> Compiled:
    """Lower a step and have the TPU's compiler make a program of it.

    Args:
        lower: gives a `jax.stages.Lowered`.
        began_s: `time.perf_counter()` from which it counts.

    Raises:
        AutoshardError: there is no compiler. What the compiler itself says is in the answer.
    """
    with TemporaryDirectory() as place:
        try:
            lowered = lower()
            compiled = beside(lambda: lowered.compile(compiler_options=dump_options("tpu", place)))
        except AutoshardError:
            raise
        except Exception as error:  # whatever the compiler raises, such as too little memory
            return Compiled(error=first_line(error))
        memory = compiled.memory_analysis()
        return Compiled(
            text=dumped(Path(place)) or compiled.as_text(),
            argument_bytes=int(memory.argument_size_in_bytes),
            output_bytes=int(memory.output_size_in_bytes),
            alias_bytes=int(memory.alias_size_in_bytes),
            temporary_bytes=int(memory.temp_size_in_bytes),
            seconds=time.perf_counter() - began_s,
        )


def beside(make: Callable[[], Any]) -> Any:
    """What `make` gives, from a thread of its own, so that Ctrl-C need not wait for a compiler."""
    made: list[Any] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as error:  # raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
    if failed:
        raise failed[0]
    return made[0]


def first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}"
