"""Who meets on which ground: models, machines and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Case(Workload):
    """A train step to contend for.

    Attributes:
        label: what `--model` takes.
    """

    label: str

    @property
    def name(self) -> str:
        """Such as "gpt-125m, batch 32 on v5e:2x4"."""
        return f"{self.label}, batch {self.batch_size} on {self.on}"


# Eight experts in layers that 8 chips of 16 GB can train: 0.9 billion parameters.
_MOE: Mapping[str, object] = {
    "layers": 8,
    "embed": 1024,
    "hidden": 4096,
    "heads": 16,
    "kv_heads": 8,
    "seq": 1024,
}

# Batches fill the chips' memory with what experts would run; see benchmarks/compiled/cases.py.
_MACHINES = ("v5e:2x4", "v5e:4x4", "v5p:2x2x4")
_TABLE: tuple[tuple[str, str, Mapping[str, object], tuple[int, int, int]], ...] = (
    ("gpt-125m", "gpt-125m", {}, (32, 64, 128)),
    ("mlp-8k", "mlp-8k", {}, (8192, 16384, 16384)),
    ("vit-l", "vit-l", {}, (128, 256, 512)),
    ("wrn-28-10", "wrn-28-10", {}, (256, 512, 1024)),
    ("moe", "moe-8x7b", _MOE, (32, 64, 128)),
    ("gpt-1.3b", "gpt-1.3b", {}, (16, 32, 64)),
)

CASES: tuple[Case, ...] = tuple(
    Case(model, batches[k], on, changes, label=label)
    for k, on in enumerate(_MACHINES)
    for label, model, changes, batches in _TABLE
)
