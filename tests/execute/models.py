"""Steps for the tests of rewrites: tiny, float32, with their gradients in sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoshard.models import gpt, llama, mlp, t5, vit
from autoshard.verify.equality import FLOAT32_TOLERANCE, EqualityReport
from tests.laws.steps import GPT, LLAMA, MLP, functional

VIT = vit.Config(
    image=8, patch=4, channels=3, layers=2, heads=4, embed=16, hidden=32, classes=8,
    compute_dtype="float32",
)  # fmt: skip
T5 = t5.Config(
    vocab=32, seq=8, target_seq=4, layers=2, embed=16, heads=4, head_dim=4, hidden=32, buckets=8,
    distance=16, compute_dtype="float32",
)  # fmt: skip
STEPS = {
    "mlp": functional(mlp, MLP),
    "gpt": functional(gpt, GPT),
    "llama": functional(llama, LLAMA),
    "vit": functional(vit, VIT),
    "t5": functional(t5, T5),
}


def step_of(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step and its arguments."""
    return STEPS[name]()


def check(report: EqualityReport) -> None:
    """Asserts that two runs agree, leaf by leaf.

    Relative to the largest value of a leaf, or within round-off of ones where all of it is that:
    the true gradient of a bias on attention's keys is zero.
    """
    for leaf in report.leaves:
        assert leaf.error <= FLOAT32_TOLERANCE or leaf.error * leaf.scale <= 1e-7, report
