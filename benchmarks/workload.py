"""What benchmarks run: a model of the zoo, perhaps changed, with a batch on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoshard.models.zoo import Entry


@dataclass(frozen=True)
class Workload:
    """One train step on one machine.

    Attributes:
        model: of the zoo.
        batch_size: over all devices.
        on: the machine.
        changes: fields of the model's configuration that are set otherwise.
    """

    model: str
    batch_size: int
    on: str
    changes: Mapping[str, object] = field(default_factory=dict)

    @property
    def called(self) -> str:
        """The model, such as "gpt-125m scan=False"."""
        return " ".join([self.model, *(f"{k}={v}" for k, v in self.changes.items())])

    def entry(self) -> Entry:
        """The model, changed."""
        from autoshard.models.zoo import entries

        entry = entries()[self.model]
        if not self.changes:
            return entry
        return replace(entry, config=replace(entry.config, **self.changes))
