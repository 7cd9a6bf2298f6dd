"""What is planned in stages and compiled: a table of models, machines and meshes with `pipe`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.compiled.cases import Case

_UNROLLED = {"scan": False}
# Gpt-175b's layers are what they are; fewer of them are compiled for as many fewer chips.
_FEWER = {"layers": 16}

# Meshes of three axes have more to search; on a busy machine too the search is to come to its end,
# so that the plan is the same whenever it is looked at again.
_TIME_LIMIT_S = 120.0

# (model, changes, batch size, machine, sizes of pipe, data and tensor, what else is asked for).
_TABLE: tuple[
    tuple[str, Mapping[str, object], int, str, tuple[int, int, int], Mapping[str, object]], ...
] = (
    ("gpt-350m", {}, 16, "8xh100", (2, 2, 2), {}),
    ("gpt-350m", {}, 32, "8xh100", (4, 2, 1), {"remat": True}),
    ("gpt-1.3b", {}, 64, "8xh100", (2, 4, 1), {"microbatch": 8}),
    ("gpt-125m", _UNROLLED, 64, "8xh100", (2, 4, 1), {}),
    ("gpt-6.7b", {}, 128, "8x8xh100", (4, 8, 2), {}),
    ("gpt-175b", _FEWER, 64, "8x8xh100", (4, 2, 8), {}),
    ("llama-8b", {}, 64, "8x8xh100", (4, 4, 4), {}),
    ("vit-l", {}, 256, "8xh100", (2, 4, 1), {}),
    ("vit-h", {}, 512, "8x8xh100", (4, 16, 1), {}),
    ("t5-large", {}, 64, "8xh100", (2, 4, 1), {}),
    ("t5-3b", {}, 128, "8x8xh100", (4, 8, 2), {}),
    ("gpt-350m", {}, 16, "v5e:2x4", (2, 2, 2), {}),
    ("gpt-350m", {}, 32, "v5e:2x4", (4, 2, 1), {"remat": True}),
    ("gpt-1.3b", {}, 64, "v5e:4x4", (4, 2, 2), {}),
    ("gpt-125m", _UNROLLED, 64, "v6e:2x4", (2, 4, 1), {}),
    ("gpt-6.7b", {}, 128, "v5p:4x4x4", (4, 8, 2), {}),
    ("gpt-175b", _FEWER, 64, "v5p:4x4x4", (4, 2, 8), {}),
    ("llama-8b", {}, 64, "v5p:4x4x4", (4, 4, 4), {}),
    ("vit-l", {}, 128, "v5e:2x4", (2, 4, 1), {}),
    ("vit-h", {}, 512, "v6e:4x4", (4, 4, 1), {}),
    ("t5-large", {}, 32, "v5e:4x4", (2, 4, 2), {}),
    ("t5-3b", {}, 64, "v5p:2x2x4", (4, 4, 1), {}),
)


def pipelined() -> Iterator[Case]:
    """All of them, in the table's order."""
    for model, changes, batch_size, on, (pipe, data, tensor), more in _TABLE:
        mesh = {"pipe": pipe, "data": data, "tensor": tensor}
        asked = {"mesh": mesh, **more}
        yield Case(
            model,
            batch_size,
            on,
            changes,
            strategy="auto",
            asked=asked,
            time_limit_s=_TIME_LIMIT_S,
        )
