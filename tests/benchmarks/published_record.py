"""One published run, to be changed by tests."""

import copy

RECORD = {
    "id": "one",
    "source": "a table",
    "hardware": "A100-SXM4-80GB",
    "chips": 16,
    "precision": "fp16 mixed",
    "framework": "Megatron-LM",
    "group": "g",
    "model": {
        "name": "tiny",
        "kind": "dense",
        "layers": 2,
        "d_model": 256,
        "n_heads": 4,
        "n_kv_heads": None,
        "head_dim": None,
        "d_ff": None,
        "gated_mlp": None,
        "vocab": 1024,
        "seq": 128,
        "params": None,
        "experts": None,
    },
    "global_batch": 32,
    "layout": {"data": 8, "tensor": 2, "pipe": 1, "microbatch": 2, "remat": "full"},
    "measured": {"step_s": 0.5},
    "derived": None,
    "tflops_kind": None,
    "notes": None,
}


def record(**changes):
    """The record above; "layout__data" changes a field of a field."""
    made = copy.deepcopy(RECORD)
    for name, value in changes.items():
        *above, last = name.split("__")
        where = made[above[0]] if above else made
        where[last] = value
    return made
