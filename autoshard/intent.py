"""What a user wants of the layout, beside speed: pins, bans, ties and preferences.

Paths are written with slashes, as plans print them: "state/params/layers/mlp/up". A pattern may
hold `*` (any characters, slashes too), `?` and `[...]`, and may begin at any step of a path:
"mlp/up" and "params/*/up" both match. Specs are `jax.sharding.PartitionSpec`s or `Spec`s; a spec
shorter than a tensor leaves the remaining dimensions whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from autoshard.program.spec import Spec


def _caller() -> str:
    """The user's "file:line" that wrote an intent."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("autoshard"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@dataclass(frozen=True)
class Intent:
    """One wish. `where` is the user's line that made it; it is no part of the wish."""

    path: str
    where: str = field(default_factory=_caller, compare=False, kw_only=True)

    def matches(self, path: str) -> bool:
        """Whether the pattern means this path, from its start or from any step on."""
        return matches(self.path, path)


@dataclass(frozen=True)
class Pin(Intent):
    """Leaves that shall rest in exactly this spec."""

    spec: Spec

    def __str__(self) -> str:
        return f"pin({self.path!r}, {self.spec})"


@dataclass(frozen=True)
class Forbid(Intent):
    """Leaves that no axis of `axes` may split."""

    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"forbid({self.path!r}, {', '.join(map(repr, self.axes))})"


@dataclass(frozen=True)
class Tie(Intent):
    """Leaves that shall rest in the same spec as those that match `other`."""

    other: str

    def __str__(self) -> str:
        return f"tie({self.path!r}, {self.other!r})"


@dataclass(frozen=True)
class Prefer(Intent):
    """Leaves that should rest in this spec, unless that costs more than `price_s` a step each."""

    spec: Spec
    price_s: float

    def __str__(self) -> str:
        return f"prefer({self.path!r}, {self.spec}, price_s={self.price_s:g})"


def pin(path: str, spec: Any) -> Pin:
    """Leaves matching `path` rest in exactly `spec`."""
    return Pin(path, as_spec(spec))


def forbid(path: str, *axes: str) -> Forbid:
    """No axis named splits a leaf matching `path`.

    Raises:
        ValueError: no axis is named.
    """
    if not axes:
        raise ValueError(f"forbid({path!r}) names no axis: forbid(path, 'tensor')")
    return Forbid(path, tuple(axes))


def tie(path: str, other: str) -> Tie:
    """Leaves matching `path` rest in the same spec as leaves of the same shape matching `other`."""
    return Tie(path, other)


def prefer(path: str, spec: Any, price_s: float) -> Prefer:
    """Leaves matching `path` rest in `spec` unless another spec saves more than the price.

    Args:
        path: pattern.
        spec: the layout preferred.
        price_s: seconds per step that a leaf laid out otherwise must save to be.

    Raises:
        ValueError: the price is not positive.
    """
    if not price_s > 0:
        raise ValueError(f"prefer({path!r}): price_s={price_s!r} must be more than 0 seconds")
    return Prefer(path, as_spec(spec), float(price_s))


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern means a path, from its start or from any step on.

    The last step of boxed parameters and of NNX variables, "value", may be left out.
    """
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f"*/{pattern}")
        for name in dict.fromkeys((path, path.removesuffix("/value")))
    )


def as_spec(spec: Any) -> Spec:
    """A `Spec`, from one or from a `PartitionSpec`.

    Raises:
        TypeError: neither.
        ValueError: an axis on two dimensions.
    """
    if isinstance(spec, Spec):
        return spec
    if isinstance(spec, Iterable) and not isinstance(spec, str):
        return Spec.of(*spec)
    raise TypeError(f"{spec!r} is no spec: write PartitionSpec('data', None)")
