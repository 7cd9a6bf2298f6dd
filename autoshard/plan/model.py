"""The plan as a value: what was decided, what it is predicted to cost, and how sure that is.

Nothing here knows JAX. A plan can be saved, loaded, compared and shown on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoshard.plan._views import view
from autoshard.plan.pipeline import Pipeline
from autoshard.program.spec import Spec

if TYPE_CHECKING:
    from autoshard.plan.diff import PlanDiff

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """The device mesh: axis names and sizes, and which device stands where (row-major)."""

    axis_names: tuple[str, ...]
    axis_sizes: tuple[int, ...]
    device_order: tuple[int, ...]
    links: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axis_names, self.axis_sizes, strict=True))

    @property
    def n_devices(self) -> int:
        return len(self.device_order)

    def __str__(self) -> str:
        return " x ".join(f"{n} {s}" for n, s in self.sizes.items())


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """The layout of one input or output leaf.

    Attributes:
        path: pytree path, e.g. "state['params']['dense']['kernel']".
        shape, dtype: of the whole leaf.
        role: "parameter" | "optimizer" | "data" | "output".
        spec: at rest.
        bytes_per_device: what one device holds of it.
        note: why it is replicated or otherwise remarkable, or "".
        treepath: path as (kind, key) steps, kind "index" | "key" | "attr" | "flat", so that
            containers can be rebuilt without JAX.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    spec: Spec
    bytes_per_device: float
    note: str = ""
    treepath: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """A layout imposed inside the program.

    Attributes:
        at: the equation, as indices through nested jaxprs: "12/3".
        slot: "result 0" (where a value is defined), "operand 1" (where it is used) or "body 2"
            (an input of a loop body).
        specs: imposed one after the other; two where a partial sum is first combined, then split.
        shape, dtype: of the value.
        source: user's "file:line".
        primitive: of the equation.
        reason: one phrase for people: "gathered for use", "partial sum over tensor", ...
        again: 0 for the first of several times, far apart, that a value is laid out for use;
            the later ones are done anew, so that no copy stays in memory in between.
        by_rows: the value lies in memory as state does at rest, last dimension minor.
        sent_as: the narrower type that the value was widened from, in which it is laid out; "" for
            its own.
    """

    at: str
    slot: str
    specs: tuple[Spec, ...]
    shape: tuple[int, ...]
    dtype: str
    source: str = ""
    primitive: str = ""
    reason: str = ""
    again: int = 0
    by_rows: bool = False
    sent_as: str = ""


@dataclass(frozen=True, slots=True)
class Collective:
    """Communication the plan expects, one entry per place it happens.

    Attributes:
        kind: "all-gather" | "reduce-scatter" | "all-reduce" | "all-to-all" | "permute".
        axes: mesh axes it runs over.
        count: times per step.
        bytes: bytes of the larger side of the tensor on one device, per occurrence.
        seconds: predicted, for all occurrences in a step, each by itself.
        exposed_s: the part of it that no compute hides.
        tensor: shape and dtype for people, e.g. "bfloat16[1024,4096]".
        source: user's "file:line".
        scope: name stack.
        reason: why, e.g. "parameter gathered for use".
        come_by: how often the compiled program comes by it in a step, where it lies in a branch
            that is not always taken; 0 if it is.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float
    seconds: float
    exposed_s: float
    tensor: str = ""
    source: str = ""
    scope: str = ""
    reason: str = ""
    come_by: int = 0


@dataclass(frozen=True, slots=True)
class Alive:
    """A tensor that occupies memory at the predicted peak."""

    what: str
    bytes_per_device: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the cost model says; never measured, never compiled.

    Attributes:
        step_s: one step; `compute_s` and `exposed_s` together.
        compute_s: ops by themselves.
        communication_s: collectives by themselves.
        exposed_s: the part of `communication_s` that no compute hides.
        peak_bytes: on one device, at `peak_at`, with the tensors `alive_at_peak`.
        state_bytes: of parameters and optimizer state on one device.
        flops: of all matmuls, over all devices.
    """

    step_s: float
    compute_s: float
    communication_s: float
    exposed_s: float
    peak_bytes: float
    state_bytes: float
    peak_at: str = ""
    alive_at_peak: tuple[Alive, ...] = ()
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Rival:
    """An expert strategy or another mesh, judged by the same cost model."""

    name: str
    mesh: str
    step_s: float | None  # None: does not fit, or does not apply
    peak_bytes: float | None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the search proved.

    Attributes:
        status: "optimal" (within tolerance), "feasible" (gap left), "given" (an expert strategy).
        lower_bound_s: no plan of the search space is predicted faster.
        gap: (step_s - lower_bound_s) / step_s.
        search_s: wall-clock of the search.
        rivals: strategies and meshes compared.
        alike: decisions of repeated layers taken as those of another layer; where there are any,
            the bound is on plans that lay such layers out alike.
        open_meshes: meshes of three axes that the time did not suffice to rule out; the bound does
            not speak of them.
    """

    status: str
    lower_bound_s: float
    gap: float
    search_s: float
    rivals: tuple[Rival, ...] = ()
    alike: int = 0
    open_meshes: int = 0


@dataclass(frozen=True, slots=True)
class ProgramKey:
    """What identifies the program a plan was made for."""

    name: str
    fingerprint: str
    inputs: tuple[tuple[str, str], ...]  # (path, "float32[8,16]")


@dataclass(frozen=True, slots=True)
class MachineKey:
    """What identifies the machine a plan was made for."""

    name: str  # "v5e:2x4"
    chip: str
    n_devices: int
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. See the module docstring and each part's class.

    `strategy` is "auto" or an expert strategy's name; `notes` are things a person must know, such
    as primitives that were kept whole; `versions` maps packages to versions.

    The program is run as `remat` and `microbatches` say: what backward loops of scanned layers
    compute again ("as written", "none", "selective" or "full"), and the batch in so many parts, one
    after the other. With a `pipeline` its layers are cut into stages too. Constraints speak of the
    program so rewritten, `program` of the one it was made from.

    `objective` is what the plan was made for. For "throughput" `mesh` and predictions are
    those of one of `copies` that run side by side, each on an equal part of `machine`.
    """

    program: ProgramKey
    machine: MachineKey
    mesh: MeshPlan
    inputs: tuple[LeafPlan, ...]
    outputs: tuple[LeafPlan, ...]
    constraints: tuple[Constraint, ...]
    collectives: tuple[Collective, ...]
    prediction: Prediction
    certificate: Certificate
    strategy: str = "auto"
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    remat: str = "as written"
    microbatches: int = 1
    pipeline: Pipeline | None = None
    objective: str = "latency"
    copies: int = 1
    schema: int = SCHEMA_VERSION

    @property
    def specs(self) -> dict[str, Spec]:
        """The spec of every input leaf by path."""
        return {leaf.path: leaf.spec for leaf in self.inputs}

    @property
    def calls_per_s(self) -> float:
        """Of all copies together, predicted; infinite where a call takes no time."""
        step_s = self.prediction.step_s
        return self.copies / step_s if step_s > 0 else float("inf")

    def leaves(self, *roles: str) -> Iterator[LeafPlan]:
        """Input leaves with one of these roles, all when none is given."""
        return (leaf for leaf in self.inputs if not roles or leaf.role in roles)

    @staticmethod
    def total_bytes(leaves: Iterable[LeafPlan]) -> float:
        """Bytes one device holds of these leaves."""
        return sum(leaf.bytes_per_device for leaf in leaves)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; see `autoshard.plan.serialize`."""
        from autoshard.plan.serialize import save

        save(self, path)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan that `save` wrote.

        Raises:
            PlanError: the file is missing, is no plan, or is one of another schema version.
        """
        from autoshard.plan.serialize import load

        return load(path)

    def diff(self, other: Plan) -> PlanDiff:
        """What changes from this plan to another; false where nothing does."""
        from autoshard.plan.diff import diff

        return diff(self, other)

    def explain(self, part: str) -> str:
        """What was decided for tensors whose path or source line contains `part`, and why."""
        return str(view("explain")(self, part))

    def shardings(self, devices: Any, like: Any = None) -> Any:
        """The input leaves' `NamedSharding`s; see `autoshard.execute.shardings`. Imports JAX."""
        return view("shardings")(self, devices, like=like)

    def __str__(self) -> str:
        return str(view("text")(self))

    def _repr_html_(self) -> str:
        return str(view("html")(self))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield view("rich")(self)
