"""A realistic plan made by hand: a small GPT on v5e:2x4, data 4 x tensor 2, FSDP with Megatron."""

from __future__ import annotations

import math

from autoshard.plan.model import (
    Alive,
    Certificate,
    Collective,
    Constraint,
    LeafPlan,
    MachineKey,
    MeshPlan,
    Plan,
    Prediction,
    ProgramKey,
    Rival,
)
from autoshard.program.spec import Spec

SIZES = {"data": 4, "tensor": 2}
ITEMSIZE_BYTES = {"float32": 4, "bfloat16": 2, "int32": 4}
FILE = "/home/ada/train/gpt.py"
GIB = 2**30
MIB = 2**20

LAYERS, EMBED, HEADS, HEAD, HIDDEN, VOCAB, SEQ, BATCH = 24, 1024, 16, 64, 4096, 50304, 1024, 64

# Path steps, shape, spec; scanned layers are stacked on dimension 0.
PARAMETERS = (
    (("embed",), (VOCAB, EMBED), Spec.of("tensor", "data")),
    (("position",), (SEQ, EMBED), Spec.of(None, "data")),
    (("layers", "norm1", "scale"), (LAYERS, EMBED), Spec.of(None, "data")),
    (("layers", "norm1", "bias"), (LAYERS, EMBED), Spec.of(None, "data")),
    (
        ("layers", "attention", "query"),
        (LAYERS, EMBED, HEADS, HEAD),
        Spec.of(None, "data", "tensor", None),
    ),
    (
        ("layers", "attention", "key"),
        (LAYERS, EMBED, HEADS, HEAD),
        Spec.of(None, "data", "tensor", None),
    ),
    (
        ("layers", "attention", "value"),
        (LAYERS, EMBED, HEADS, HEAD),
        Spec.of(None, "data", "tensor", None),
    ),
    (
        ("layers", "attention", "out"),
        (LAYERS, HEADS, HEAD, EMBED),
        Spec.of(None, "tensor", None, "data"),
    ),
    (("layers", "norm2", "scale"), (LAYERS, EMBED), Spec.of(None, "data")),
    (("layers", "norm2", "bias"), (LAYERS, EMBED), Spec.of(None, "data")),
    (("layers", "mlp", "up"), (LAYERS, EMBED, HIDDEN), Spec.of(None, "data", "tensor")),
    (("layers", "mlp", "down"), (LAYERS, HIDDEN, EMBED), Spec.of(None, "tensor", "data")),
    (("final_norm", "scale"), (EMBED,), Spec.of(None)),
    (("final_norm", "bias"), (EMBED,), Spec.of(None)),
    (("head",), (EMBED, VOCAB), Spec.of("data", "tensor")),
)


def leaf(
    root: str,
    steps: tuple[tuple[str, str], ...],
    shape: tuple[int, ...],
    dtype: str,
    role: str,
    spec: Spec,
    note: str = "",
) -> LeafPlan:
    local = math.prod(spec.local_shape(shape, SIZES)) * ITEMSIZE_BYTES[dtype]
    wear = {"key": "[{!r}]", "attr": ".{}", "index": "[{}]"}
    path = root + "".join(wear[kind].format(int(k) if kind == "index" else k) for kind, k in steps)
    return LeafPlan(path, shape, dtype, role, spec, float(local), note, (("index", "0"), *steps))


def keys(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple(("key", name) for name in names)


def _state(root: str, role_of_rest: str = "") -> tuple[LeafPlan, ...]:
    def role(own: str) -> str:
        return role_of_rest or own

    note = "small: gathering it would cost more than the copy"
    params = tuple(
        leaf(
            root,
            keys("params", *steps),
            shape,
            "float32",
            role("parameter"),
            spec,
            note if spec.is_replicated else "",
        )
        for steps, shape, spec in PARAMETERS
    )
    adam = (*keys("opt_state"), ("index", "0"))
    count = leaf(root, (*adam, ("attr", "count")), (), "int32", role("optimizer"), Spec.of())
    moments = tuple(
        leaf(
            root,
            (*adam, ("attr", moment), *keys(*steps)),
            shape,
            "float32",
            role("optimizer"),
            spec,
        )
        for moment in ("mu", "nu")
        for steps, shape, spec in PARAMETERS
    )
    step = leaf(root, keys("step"), (), "int32", role("optimizer"), Spec.of())
    return (count, *moments, *params, step)


def _data() -> tuple[LeafPlan, ...]:
    spec = Spec.of("data", None)
    return tuple(
        leaf("batch", keys(name), (BATCH, SEQ), "int32", "data", spec)
        for name in ("inputs", "targets")
    )


def _constraints() -> tuple[Constraint, ...]:
    residual = ((BATCH, SEQ, EMBED), "bfloat16")
    heads = ((BATCH, SEQ, HEADS, HEAD), "bfloat16")
    hidden = ((BATCH, SEQ, HIDDEN), "bfloat16")
    stream = Spec.of("data", None, None)
    by_head = Spec.of("data", None, "tensor", None)
    partial = "partial sum over tensor"
    gathered = "parameter gathered for use"
    weight = Spec.of(None, "tensor", None)
    dot = "dot_general"
    return (
        Constraint("4", "result 0", (stream,), *residual, f"{FILE}:168", "gather", "embedding"),
        Constraint("9/3", "operand 1", (weight,), (EMBED, HEADS, HEAD), "bfloat16",
                   f"{FILE}:120", dot, gathered),
        Constraint("9/3", "result 0", (by_head,), *heads, f"{FILE}:120", dot, "heads split"),
        Constraint("9/4", "operand 1", (weight,), (EMBED, HEADS, HEAD), "bfloat16",
                   f"{FILE}:121", dot, gathered),
        Constraint("9/4", "result 0", (by_head,), *heads, f"{FILE}:121", dot, "heads split"),
        Constraint("9/17", "result 0", (stream,), *residual, f"{FILE}:129", dot, partial),
        Constraint("9/22", "operand 1", (Spec.of(None, "tensor"),), (EMBED, HIDDEN), "bfloat16",
                   f"{FILE}:134", dot, gathered),
        Constraint("9/22", "result 0", (Spec.of("data", None, "tensor"),), *hidden,
                   f"{FILE}:134", dot, "hidden split"),
        Constraint("9/31", "result 0", (stream,), *residual, f"{FILE}:135", dot, partial),
        Constraint("9/31", "body 2", (stream,), *residual, "", "scan", "carried"),
        Constraint("14", "result 0", (Spec.of("data", None, "tensor"),), (BATCH, SEQ, VOCAB),
                   "bfloat16", f"{FILE}:181", dot, "vocabulary split"),
        Constraint("31/40", "result 0", (Spec.of(None, "tensor"), Spec.of("data", "tensor")),
                   (EMBED, HIDDEN), "float32", f"{FILE}:134", dot, "gradient, partial over data"),
    )  # fmt: skip


def _collectives() -> tuple[Collective, ...]:
    rows = (
        # kind, axis, count, tensor, bytes, seconds, line, reason
        ("all-gather", "data", 144, "bfloat16[1024,2048]", 4 * MIB, 2.9e-3, 134,
         "parameter gathered for use"),
        ("all-gather", "data", 144, "bfloat16[1024,8,64]", 1 * MIB, 1.4e-3, 120,
         "parameter gathered for use"),
        ("all-gather", "data", 2, "bfloat16[25152,1024]", 49 * MIB, 0.9e-3, 167,
         "parameter gathered for use"),
        ("all-reduce", "tensor", 48, "bfloat16[16,1024,1024]", 32 * MIB, 6.1e-3, 129,
         "partial sum over tensor"),
        ("all-reduce", "tensor", 48, "bfloat16[16,1024,1024]", 32 * MIB, 6.1e-3, 135,
         "partial sum over tensor"),
        ("all-reduce", "tensor", 2, "float32[16,1024]", 64 * 1024, 12e-6, 189,
         "softmax over a split vocabulary"),
        ("reduce-scatter", "data", 72, "float32[1024,2048]", 8 * MIB, 2.7e-3, 134,
         "gradient, partial over data"),
        ("reduce-scatter", "data", 96, "float32[1024,8,64]", 2 * MIB, 1.1e-3, 120,
         "gradient, partial over data"),
        ("all-reduce", "data", 1, "float32[]", 4, 2e-6, 190, "loss, mean over data"),
    )  # fmt: skip
    return tuple(
        Collective(kind, (axis,), count, float(size), seconds,
                   seconds * (0.25 if "parameter" in reason else 1.0), tensor, f"{FILE}:{line}",
                   "jvp(loss)/layers", reason)
        for kind, axis, count, tensor, size, seconds, line, reason in rows
    )  # fmt: skip


def make_plan() -> Plan:
    """The sample."""
    inputs = (*_state("state"), *_data())
    metric = leaf("[1]", keys("loss"), (), "float32", "output", Spec.of())
    outputs = (*_state("[0]", "output"), metric)
    collectives = _collectives()
    communication_s = sum(c.seconds for c in collectives)
    exposed_s = sum(c.exposed_s for c in collectives)
    state_bytes = Plan.total_bytes(leaf for leaf in inputs if leaf.role != "data")
    compute_s = 0.1482
    return Plan(
        program=ProgramKey(
            "train_step",
            "9f1c2a77d0b34e58a6e1f00d5c2b7781",
            tuple((x.path, f"{x.dtype}[{','.join(map(str, x.shape))}]") for x in inputs),
        ),
        machine=MachineKey("v5e:2x4", "v5e", 8, int(14.4 * GIB)),
        mesh=MeshPlan(
            ("data", "tensor"),
            (4, 2),
            (0, 4, 1, 5, 2, 6, 3, 7),
            ("ICI y (line of 4)", "ICI x (line of 2)"),
        ),
        inputs=inputs,
        outputs=outputs,
        constraints=_constraints(),
        collectives=collectives,
        prediction=Prediction(
            step_s=compute_s + exposed_s,
            compute_s=compute_s,
            communication_s=communication_s,
            exposed_s=exposed_s,
            peak_bytes=5.1 * GIB,
            state_bytes=state_bytes,
            peak_at=f"{FILE}:189",
            alive_at_peak=(
                Alive("logits bfloat16[64,1024,50304]", 16 * 1024 * 25152 * 2.0, f"{FILE}:181"),
                Alive("carry of 24 layers bfloat16[24,64,1024,1024]", 768.0 * MIB, f"{FILE}:176"),
                Alive("state", state_bytes),
            ),
            flops=1.66e14,
        ),
        certificate=Certificate(
            "feasible",
            lower_bound_s=0.1625,
            gap=1 - 0.1625 / (compute_s + exposed_s),
            search_s=4.2,
            rivals=(
                Rival("fsdp", "data 8 x tensor 1", 0.1912, 6.3 * GIB),
                Rival("data parallel", "data 8 x tensor 1", None, 17.9 * GIB, "does not fit"),
                Rival("megatron", "data 1 x tensor 8", 0.2870, 4.4 * GIB),
                Rival("auto", "data 2 x tensor 4", 0.1833, 4.9 * GIB, "other mesh"),
                Rival("expert parallel", "", None, None, "does not apply: no experts"),
            ),
        ),
        notes=("primitive `my_kernel` has no sharding rule: kept whole (gpt.py:88)",),
        versions=(("autoshard", "0.1.0"), ("jax", "0.10.2")),
    )
