"""What a case is, and the decorator that puts it on the list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Built:
    """A train step and what it is called with.

    Attributes:
        step: (state, batch) -> (state, metrics).
        state: the first state.
        batch: the same at every step.
        whole_state: whether updated state is compared too. Not where a tiny difference of a
            gradient grows into a full step (Adam, Lion, Muon at a gradient of zero): there the
            metrics must hold the gradients.
        zeros: fragments of the paths of leaves that are zero but for round-off, such as the
            gradient of an attention's key bias: compared absolutely.
    """

    step: Step
    state: Any
    batch: Any
    whole_state: bool = True
    zeros: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A case on the list; `build` raises ImportError where its package is absent."""

    name: str
    package: str
    build: Callable[[], Built]


CASES: dict[str, Case] = {}


def case(package: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Register a builder under its function's name.

    Raises:
        ValueError: two cases of one name.
    """

    def add(build: Callable[[], Built]) -> Callable[[], Built]:
        name = build.__name__
        if name in CASES:
            raise ValueError(f"two wild cases are called {name!r}")
        CASES[name] = Case(name, package, build)
        return build

    return add
