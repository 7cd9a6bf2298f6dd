"""One case on one layout against plain `jax.jit` on one device."""

from __future__ import annotations

import re
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from autoshard import autoshard, planning
from autoshard.errors import AutoshardError, InfeasibleError
from benchmarks.wild.case import Built

STEPS = 3
TOLERANCE = 1e-4
# A search that needs longer for programs this small is a finding of its own.
_SEARCH_S = 10.0
# The least memory is a float that the search must be able to meet again.
_JUST_ABOVE = 1.001

# A gradient that is zero but for round-off may be off by TOLERANCE x this: 1e-7 in f32.
_ZERO_SCALE = 1e-3

_4X2 = {"data": 4, "tensor": 2}

# Where packages lie on this machine says nothing to anybody.
_FOLDERS = re.compile(r"/[^\s\"]*?/(?=(?:site-packages|benchmarks|autoshard|models)/)")

# Programs this small are fastest whole on every device, and every strategy may leave them so: a
# comparison would then compare a program with itself. On a chip this many times slower, splitting
# the work is always worth its collectives.
_SLOWER = 1e5

LAYOUTS: dict[str, Mapping[str, Any]] = {
    "auto": {"mesh": "auto"},
    "4x2": {"mesh": _4X2},
    "4x2 slow chip": {"mesh": _4X2, "slower": _SLOWER},
    "1x8 slow chip": {"mesh": {"data": 1, "tensor": 8}, "slower": _SLOWER},
    "4x2 fsdp_tensor": {"mesh": _4X2, "strategy": "fsdp_tensor", "slower": _SLOWER},
    "4x2 tight": {"mesh": _4X2, "memory": "least"},
}


@contextmanager
def slower_chips(times: float) -> Iterator[None]:
    """Plans are made as if computing took `times` as long; nothing else changes."""
    real = planning.machine_of

    def slow(devices: Any) -> Any:
        machine = real(devices)
        chip = machine.chip
        rates = {kind: rate / times for kind, rate in chip.peak_flops_per_s.items()}
        bandwidth = chip.memory_bytes_per_s / times
        chip = replace(chip, peak_flops_per_s=rates, memory_bytes_per_s=bandwidth)
        return replace(machine, chip=chip)

    planning.machine_of = slow
    try:
        yield
    finally:
        planning.machine_of = real


@dataclass(frozen=True)
class Row:
    """What became of a case on a layout.

    Attributes:
        status: "ok", "refused" (autoshard said no), "wrong" (numbers differ), "error" (a crash).
        max_relative_error: over all compared leaves, relative to the leaf's largest value.
        replicated: primitives without a rule, kept whole.
        plan_s: tracing and searching.
        seconds: everything.
        split: state leaves that the plan splits, of how many.
        split_values: values inside the program that the plan splits. With none, every device
            does all the work, and equal numbers prove little.
        detail: the worst leaf, or the error.
    """

    name: str
    package: str
    layout: str
    status: str
    max_relative_error: float | None
    replicated: tuple[str, ...]
    plan_s: float
    seconds: float
    split: str
    split_values: int
    detail: str


def reference(built: Built) -> tuple[Any, list[Any]]:
    """The unsharded run: last state, and metrics of every step."""
    step = jax.jit(built.step)
    state, metrics = built.state, []
    for _ in range(STEPS):
        state, m = step(state, built.batch)
        metrics.append(m)
    return jax.device_get((state, metrics))


def contest(name: str, package: str, built: Built, layout: str, expected: Any) -> Row:
    """Plan, run and compare."""
    begun = time.perf_counter()
    plan_s, error, unknown, split, values = 0.0, None, (), "", 0
    try:
        options = dict(LAYOUTS[layout], time_limit_s=_SEARCH_S)
        if options.get("memory") == "least":
            options["memory"] = _least(built, options) * _JUST_ABOVE
        times = options.pop("slower", 1.0)
        step = autoshard(built.step, **options)
        asked = time.perf_counter()
        with slower_chips(times):
            plan = step.plan_for(built.state, built.batch)
        plan_s = time.perf_counter() - asked
        values = sum(any(c.specs[-1].dims) for c in plan.constraints)
        unknown = tuple(note for note in plan.notes if "no sharding rule" in note)
        n_state = len(jax.tree.leaves(built.state))
        specs = [leaf.spec for leaf in plan.inputs[:n_state]]
        split = f"{sum(any(s.dims) for s in specs)}/{n_state}"
        state, metrics = built.state, []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*moved.*")
            for _ in range(STEPS):
                state, m = step(state, built.batch)
                metrics.append(m)
        got = (state if built.whole_state else None, metrics)
        want = (expected[0] if built.whole_state else None, expected[1])
        error, detail = worst(got, want, built.zeros)
        status = "ok" if error <= TOLERANCE else "wrong"
    except AutoshardError as refusal:
        status, detail = "refused", f"{type(refusal).__name__}: {refusal}"
    except Exception:
        status, detail = "error", traceback.format_exc()
    seconds = time.perf_counter() - begun
    return Row(
        *(name, package, layout, status, error, tuple(map(placed, unknown))),
        *(plan_s, seconds, split, values, placed(detail)),
    )


def placed(text: str) -> str:
    """The text with the folders above a package left out of paths of its files."""
    return _FOLDERS.sub("", text)


def _least(built: Built, options: Mapping[str, Any]) -> float:
    try:
        autoshard(built.step, **{**options, "memory": 1}).plan_for(built.state, built.batch)
    except InfeasibleError as refusal:
        return refusal.least_bytes
    raise AssertionError("a plan was found that needs one byte per device")


def worst(got: Any, want: Any, zeros: Sequence[str] = ()) -> tuple[float, str]:
    """The largest difference of two pytrees, relative to each leaf's largest value; and where.

    Leaves whose path holds one of `zeros` must agree absolutely, to round-off.
    """
    differences = list(_differences(got, want, zeros))
    return max(differences, default=(0.0, "nothing was compared"))


def _differences(got: Any, want: Any, zeros: Sequence[str]) -> Iterator[tuple[float, str]]:
    ours = jax.tree_util.tree_leaves_with_path(got)
    theirs = jax.tree_util.tree_leaves_with_path(want)
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        yield float("inf"), "the results have another structure"
        return
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        where = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(getattr(a, "dtype", np.float32), jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape or x.dtype != y.dtype:
            yield float("inf"), f"{where}: {x.dtype}{x.shape}, not {y.dtype}{y.shape}"
        elif not np.issubdtype(x.dtype, np.inexact):
            yield (0.0 if np.array_equal(x, y) else float("inf")), where
        elif x.size and not np.array_equal(np.isfinite(x), np.isfinite(y)):
            yield float("inf"), f"{where}: infinite or NaN elsewhere"
        elif x.size:
            finite = np.isfinite(y)
            largest = float(np.abs(y[finite]).max(initial=0.0))
            scale = _ZERO_SCALE if any(z in where for z in zeros) else max(largest, 1e-6)
            yield float(np.abs(x - y)[finite].max(initial=0.0)) / scale, where
