"""Models of the zoo with fields of their configurations set otherwise, as benchmarks name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoshard.models.zoo import Entry


def variant(model: str, changes: Mapping[str, object]) -> Entry:
    """A model of the zoo, changed."""
    from autoshard.models.zoo import entries

    entry = entries()[model]
    return replace(entry, config=replace(entry.config, **changes)) if changes else entry


def called(model: str, changes: Mapping[str, object]) -> str:
    """Such as "gpt-125m scan=False"."""
    return " ".join([model, *(f"{k}={v}" for k, v in changes.items())])
