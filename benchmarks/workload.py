"""What benchmarks run, a model of the zoo with a batch on a machine, and what planning it gave."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoshard.models.zoo import Entry
    from autoshard.plan.model import Plan


def outcome(plan: Plan) -> dict[str, Any]:
    """What planning came to in this process, as results are written."""
    certificate, prediction = plan.certificate, plan.prediction
    experts = [r for r in certificate.rivals if r.name != "auto" and r.step_s is not None]
    floor = min(experts, key=lambda r: r.step_s or 0.0, default=None)
    return {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "mesh": plan.mesh.sizes,
        "predicted_step_s": prediction.step_s,
        "predicted_peak_bytes": prediction.peak_bytes,
        "lower_bound_s": certificate.lower_bound_s,
        "gap": certificate.gap,
        "open_meshes": certificate.open_meshes,
        "floor": floor and floor.name,
        "floor_step_s": floor and floor.step_s,
    }


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
