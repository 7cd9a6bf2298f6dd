"""One published run as a value: what the source says, with plain arithmetic where it says less.

Nothing is guessed here; what a framework does when a source is silent is in `frameworks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GIB, _GB = 2.0**30, 1e9


@dataclass(frozen=True)
class Layout:
    """Devices along each dimension; 1 where the source names none.

    Attributes:
        zero: stage of the optimizer's sharding.
        sequence_parallel: None where the source does not say.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    zero: int = 0
    sequence_parallel: bool | None = None


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        id, group, source, hardware, framework, precision, remat, notes: as published; "" for none.
        chips: devices.
        model: the published sizes; None where the source says none.
        global_batch, microbatch: sequences a step, and at a time on one replica.
        microbatches: how many of them one replica runs a step.
        layout: how it was cut; None where the source does not say or a compiler chose.
        pipe: pipeline stages; None if not said.
        chunks: pieces of layers on each stage (interleaved schedule); 1 where not said.
        step_s: measured, or plain arithmetic on what was; None if neither time nor rate is known.
        memory_bytes: measured on one device.
        status: "oom", "failed" or "".
    """

    id: str
    group: str
    source: str
    hardware: str
    framework: str
    precision: str
    remat: str
    notes: str
    chips: int
    model: Mapping[str, Any]
    global_batch: int | None
    microbatch: int | None
    microbatches: int | None
    layout: Layout | None
    pipe: int | None
    chunks: int
    offload: bool
    step_s: float | None
    memory_bytes: float | None
    status: str

    @property
    def comparable(self) -> tuple[str, str, int | None, str]:
        """Runs of one group with equal keys may be ranked against each other."""
        return (self.group, self.precision, self.global_batch, self.framework)


def read(record: Mapping[str, Any]) -> Row:
    """A row of the schema in `published.json`."""
    layout, measured = record["layout"], record["measured"]
    return Row(
        id=record["id"],
        group=record["group"] or "",
        source=record["source"] or "",
        hardware=record["hardware"] or "",
        framework=record["framework"] or "",
        precision=record["precision"] or "",
        remat=layout.get("remat") or "",
        notes=record.get("notes") or "",
        chips=record["chips"] or 0,
        model=record["model"],
        global_batch=record["global_batch"],
        microbatch=layout.get("microbatch"),
        microbatches=layout.get("num_microbatches"),
        layout=_layout(record),
        pipe=layout.get("pipe"),
        chunks=layout.get("interleave") or 1,
        offload=bool(layout.get("offload_activations")),
        step_s=_step_s(record),
        memory_bytes=_memory_bytes(measured),
        status=measured.get("status") or "",
    )


def _layout(record: Mapping[str, Any]) -> Layout | None:
    """The stated sizes; the data dimension is what is left when all others are stated."""
    said = record["layout"]
    if not any(said.get(name) for name in ("data", "fsdp", "tensor")):
        mesh = said.get("logical_mesh")
        if record["chips"] != 1 and (mesh is None or max(mesh) > 1):
            return None
    found = Layout(
        data=said.get("data") or 1,
        fsdp=said.get("fsdp") or 1,
        tensor=said.get("tensor") or 1,
        context=said.get("context") or 1,
        expert=said.get("expert") or 1,
        zero=said.get("zero") or 0,
        sequence_parallel=said.get("seq_parallel"),
    )
    rest = found.fsdp * found.tensor * found.context * (said.get("pipe") or 1)
    if said.get("data") is None and record["chips"] and record["chips"] % rest == 0:
        found = Layout(**{**vars(found), "data": record["chips"] // rest})
    return found


def _step_s(record: Mapping[str, Any]) -> float | None:
    measured, batch, seq = record["measured"], record["global_batch"], record["model"]["seq"]
    for where in (measured, record["derived"] or {}):
        if where.get("step_s"):
            return float(where["step_s"])
    tokens = batch * seq if batch and seq else None
    if tokens and measured.get("tokens_per_s"):
        return float(tokens / measured["tokens_per_s"])
    if tokens and measured.get("tokens_per_s_per_chip"):
        return float(tokens / measured["tokens_per_s_per_chip"] / record["chips"])
    if batch and measured.get("samples_per_s"):
        return float(batch / measured["samples_per_s"])
    flops = _counted_flops(record)
    if flops and measured.get("tflops_per_chip"):
        return flops / (measured["tflops_per_chip"] * 1e12 * record["chips"])
    return None


def _counted_flops(record: Mapping[str, Any]) -> float | None:
    """FLOPs of a step as the source counts them, where it says how.

    * Megatron, full recomputation counted: Narayanan et al., arXiv:2104.04473, equation 3.
    * Megatron, not counted: three quarters of its layers, the same logits.
    * MaxText: 6 per weight of a matmul and token, 12 seq heads head_dim per layer and token
      (`calculate_tflops_training_per_device` in its `maxtext_utils.py`).
    """
    kind, model = record["tflops_kind"] or "", record["model"]
    layers, width, seq, batch = (
        model["layers"],
        model["d_model"],
        model["seq"],
        record["global_batch"],
    )
    if not (layers and width and seq and batch) or model["kind"] != "dense":
        return None
    tokens = batch * seq
    hidden = model["d_ff"] or 4 * width
    if "MaxText" in kind:
        heads = model["n_heads"]
        head_dim = model["head_dim"] or width // heads
        kv_heads = model["n_kv_heads"] or heads
        mlp = (3 if model["gated_mlp"] else 2) * width * hidden
        attention = (2 * heads + 2 * kv_heads) * head_dim * width
        scores = 12 * seq * heads * head_dim
        vocab = (model["vocab"] or 0) * width
        return float(tokens * (layers * (6 * (mlp + attention) + scores) + 6 * vocab))
    if not (kind.startswith("hardware") or kind == "model") or not model["vocab"]:
        return None
    passes = 4 if kind.startswith("hardware") else 3
    per_layer = passes * (24 * width**2 + 4 * seq * width)
    return float(tokens * (layers * per_layer + 6 * width * model["vocab"]))


def _memory_bytes(measured: Mapping[str, Any]) -> float | None:
    if not measured.get("memory_gb"):
        return None
    return float(measured["memory_gb"]) * (
        _GIB if "GiB" in (measured.get("memory_unit") or "") else _GB
    )
