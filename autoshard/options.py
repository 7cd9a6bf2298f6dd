"""What a user may ask for, declared once: decorator, `plan()` and command line read this."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.intent import Intent
from autoshard.schedules import SCHEDULES

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


# What a plan may be made for.
OBJECTIVES = ("latency", "throughput")

# What `remat` may be beside True ("full") and False.
REMAT_WORDS = ("none", "selective", "full", "auto")


@dataclass(frozen=True)
class Options:
    """Options of `@autoshard`.

    Attributes:
        mesh: "auto", axis sizes such as `{"data": 4, "tensor": 2}`, or a `jax.sharding.Mesh`.
        devices: None for `jax.devices()`, a list of devices, or a machine such as "v5e:4x4".
        memory: limit per device: None (what the device has, less the catalogue's margin), bytes,
            or text such as "14GB" or "14GiB".
        donate_argnums, donate_argnames, static_argnums, static_argnames: as in `jax.jit`.
        strategy: "auto", or an expert layout: "zero3", "megatron", "zero1+sequence_parallel", ...
        objective: "latency" (one call as soon as may be, on all devices) or "throughput" (calls per
            second: copies of a program that only answers, each on an equal part of the machine).
        intent: wishes beside speed, from `pin`, `forbid`, `tie` and `prefer`.
        remat: what backward loops of scanned layers compute again: False (what the step says),
            True or "full" (all residuals), "selective" (all but long products),
            "none" (nothing, `jax.checkpoint` undone), "auto" for what is predicted fastest within
            the memory limit.
        microbatch: into how many microbatches the batch is split, gradients accumulated over them;
            "auto" for what is predicted fastest within the memory limit.
        pipeline: whether layers are cut into stages on a mesh axis `pipe`: "auto" where that is
            predicted faster, or where nothing else fits; False for never; or the number of stages.
            `microbatch` then says in how many microbatches. A `mesh` with sizes of `pipe`, `data`
            and `tensor` asks for it too.
        schedule: in which order microbatches go through the stages: "gpipe" (all forward, then all
            back), "1f1b" (one back for each that goes forward), "circular" (round several times,
            each time through other layers of every stage), or "auto".
        plan: a plan (or the path of one) to use instead of searching.
        strict: refuse programs with primitives that no rule covers, instead of keeping them whole.
        time_limit_s: wall clock the search may take.
        seed: of the search.
        cache: directory in which plans are kept between runs, or None.
    """

    mesh: Any = "auto"
    devices: Any = None
    memory: int | float | str | None = None
    donate_argnums: int | Sequence[int] = ()
    donate_argnames: str | Sequence[str] = ()
    static_argnums: int | Sequence[int] = ()
    static_argnames: str | Sequence[str] = ()
    strategy: str = "auto"
    objective: str = "latency"
    intent: Sequence[Intent] = ()
    remat: bool | str = False
    microbatch: int | str = 1
    pipeline: bool | int | str = "auto"
    schedule: str = "auto"
    plan: Any = None
    strict: bool = False
    time_limit_s: float = 10.0
    seed: int = 0
    cache: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.remat, bool) or self.remat in REMAT_WORDS):
            words = ", ".join(f'"{word}"' for word in REMAT_WORDS)
            raise ValueError(f"remat={self.remat!r}: write True, False or one of {words}")
        if self.objective not in OBJECTIVES:
            words = " or ".join(f'"{word}"' for word in OBJECTIVES)
            raise ValueError(f"objective={self.objective!r}: write {words}")
        count = self.microbatch
        whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
        if not (whole or count == "auto"):
            raise ValueError(
                f"microbatch={count!r}: write how many microbatches a batch is split into, 1 or"
                ' more, or "auto"'
            )
        stages = self.pipeline
        if not (stages is False or stages == "auto" or (type(stages) is int and stages > 1)):
            raise ValueError(
                f'pipeline={stages!r}: write "auto", False, or how many stages layers are cut into,'
                " 2 or more"
            )

        if self.schedule not in ("auto", *SCHEDULES):
            words = " or ".join(f'"{word}"' for word in ("auto", *SCHEDULES))
            raise ValueError(f"schedule={self.schedule!r}: write {words}")

    @property
    def memory_bytes(self) -> float | None:
        """The limit in bytes; None when the device decides.

        Raises:
            ValueError: not a size.
        """
        return None if self.memory is None else parse_size(self.memory)


def parse_size(size: float | str) -> float:
    """Bytes of "14GB" (10^9), "14GiB" (2^30), or a number.

    Raises:
        ValueError: no such size, or not positive.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", size)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(
                f"memory={size!r} is not a size: write bytes as a number, or text such as '14GB'"
                " (10^9 bytes) or '14GiB' (2^30 bytes)"
            )
        size = float(match[1]) * _UNITS[match[2].lower()]
    if size <= 0:
        raise ValueError(f"memory={size!r} must be more than 0 bytes per device")
    return float(size)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One item or several, as `jax.jit` takes argnums and argnames."""
    return (value,) if isinstance(value, int | str) else tuple(value)


def is_sizes(mesh: Any) -> bool:
    """Whether a mesh option is given as axis sizes."""
    return isinstance(mesh, Mapping)
