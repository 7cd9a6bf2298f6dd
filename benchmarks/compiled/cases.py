"""What is planned and compiled: a table of models, machines and layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Case(Workload):
    """One pair of a prediction and a compilation.

    Attributes:
        strategy: an expert's, or "auto".
        asked: what else is asked of planning: a mesh, microbatches, rematerialisation.
        time_limit_s: for the search.
    """

    strategy: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    time_limit_s: float = 10.0

    @property
    def name(self) -> str:
        """Such as "gpt-125m scan=False, batch 64, zero3 on 8xh100"."""
        words = [self.called, f"batch {self.batch_size}", self.strategy, *self.asked_for]
        return f"{', '.join(words)} on {self.on}"

    @property
    def asked_for(self) -> tuple[str, ...]:
        """What else is asked for, such as "mesh pipe 2 x data 4"."""
        return tuple(f"{key} {_words(value)}" for key, value in self.asked.items())


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return " x ".join(f"{name} {size}" for name, size in value.items())
    return str(value)


_UNROLLED = {"scan": False}

# (model, changes, batch size, machine, strategies). Sizes are such that the plans fit, and that
# every device has whole tiles of the batch to work on: what people would run.
_TABLE: tuple[tuple[str, Mapping[str, object], int, str, str], ...] = (
    ("mlp-8k", {}, 8192, "8xh100", "data_parallel zero3 megatron"),
    ("mlp-8k", {}, 8192, "8x8xh100", "fsdp_tensor auto"),
    ("gpt-125m", {}, 64, "8xh100", "data_parallel zero3 megatron fsdp_tensor auto"),
    ("gpt-125m", _UNROLLED, 64, "8xh100", "zero3 fsdp_tensor"),
    ("gpt-1.3b", {}, 64, "8xh100", "zero3 auto"),
    ("gpt-1.3b", {}, 128, "8x8xh100", "fsdp_tensor"),
    ("gpt-6.7b", {}, 128, "8x8xh100", "zero3"),
    ("llama-8b", {}, 64, "8x8xh100", "zero3 fsdp_tensor auto"),
    ("moe-8x7b", {}, 64, "8x8xh100", "zero3 auto"),
    ("vit-l", {}, 256, "8xh100", "zero3 megatron"),
    ("vit-l", {}, 512, "8x8xh100", "fsdp_tensor"),
    ("t5-large", {}, 64, "8xh100", "zero3 auto"),
    ("t5-3b", {}, 128, "8x8xh100", "zero3"),
    ("ssm-130m", {}, 64, "8xh100", "data_parallel zero3"),
    ("convnet-18", {}, 512, "8xh100", "data_parallel zero3"),
    ("wrn-28-10", {}, 512, "8xh100", "data_parallel zero3"),
    ("unet-base", {}, 256, "8xh100", "zero3"),
    ("dlrm-base", {}, 8192, "8xh100", "auto"),
    ("mlp-8k", {}, 8192, "v5e:2x4", "zero3 megatron auto"),
    ("mlp-8k", {}, 16384, "v5p:2x2x4", "fsdp_tensor"),
    ("mlp-8k", {}, 16384, "v6e:4x4", "zero3 megatron"),
    ("mlp-8k", {}, 16384, "v5e:4x4", "zero3 fsdp_tensor"),
    ("mlp-8k", {}, 8192, "v6e:2x4", "zero3"),
    ("gpt-125m", {}, 32, "v5e:2x4", "data_parallel zero1 zero3 megatron sequence_parallel auto"),
    ("gpt-125m", _UNROLLED, 32, "v5e:2x4", "data_parallel fsdp_tensor"),
    ("gpt-125m", {}, 64, "v6e:2x4", "zero3 fsdp_tensor auto"),
    ("gpt-125m", {}, 64, "v5e:4x4", "zero3 fsdp_tensor"),
    ("gpt-125m", {}, 128, "v5p:2x2x4", "zero1 fsdp_tensor"),
    ("gpt-1.3b", {}, 32, "v5e:4x4", "zero3 fsdp_tensor auto"),
    ("gpt-1.3b", {}, 64, "v5p:2x2x4", "zero3 fsdp_tensor auto"),
    ("gpt-1.3b", {}, 128, "v5e:8x8", "zero3 fsdp_tensor"),
    ("gpt-6.7b", {}, 128, "v5p:4x4x4", "fsdp_tensor"),
    ("llama-8b", {}, 64, "v5p:4x4x4", "zero3 fsdp_tensor"),
    ("moe-8x7b", {}, 64, "v5p:4x4x4", "zero3"),
    ("vit-l", {}, 128, "v5e:2x4", "data_parallel zero3 megatron auto"),
    ("vit-l", {}, 256, "v6e:4x4", "zero3 fsdp_tensor"),
    ("vit-l", {}, 256, "v5p:2x2x4", "fsdp_tensor"),
    ("vit-l", {}, 1024, "v5e:8x8", "zero3 fsdp_tensor"),
    ("t5-large", {}, 32, "v5e:4x4", "zero3 megatron auto"),
    ("t5-large", {}, 64, "v6e:2x4", "zero3"),
    ("ssm-130m", {}, 32, "v5e:2x4", "data_parallel zero3"),
    ("ssm-130m", {}, 64, "v6e:4x4", "zero3 auto"),
    ("ssm-130m", {}, 64, "v5p:2x2x4", "zero1"),
    ("convnet-18", {}, 512, "v5e:2x4", "data_parallel zero3"),
    ("convnet-18", {}, 1024, "v5p:2x2x4", "data_parallel"),
    ("wrn-28-10", {}, 256, "v5e:2x4", "data_parallel"),
    ("dlrm-base", {}, 8192, "v5p:2x2x4", "auto"),
    ("dlrm-base", {}, 16384, "v5p:4x4x4", "auto"),
    ("gnn-base", {}, 16, "v5p:2x2x4", "data_parallel auto"),
)


def cases() -> Iterator[Case]:
    """All of them, in the table's order."""
    for model, changes, batch_size, on, strategies in _TABLE:
        for strategy in strategies.split():
            yield Case(model, batch_size, on, changes, strategy=strategy)
