"""What frameworks do that rows do not say: one table, each line with where it is known from.

These are facts about software, not fitted numbers: how state is kept, whether scores of attention
go through memory, what runs beside what. First match wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from benchmarks.published.rows import Row


@dataclass(frozen=True)
class Framework:
    """How one framework trains.

    Attributes:
        pattern: of the row's framework.
        source: where this is known from.
        eager: kernels are launched one by one by a Python process.
        overlap: whether gradients and gathered parameters travel beside matmuls.
        flash: the kernel of `KERNELS` that attention is; "" where scores go through memory.
        causal_kernel: whether that kernel skips the masked half.
        softmax_dtype: of scores that go through memory; "compute" is the dtype computed in.
        param_dtype: of parameters at rest; "compute" is the dtype computed in.
        master: float32 copies beside parameters of 16 bits.
        grad_dtype: of gradients that are added up; "compute" as above.
        local_sums: gradients stay on each replica until the last microbatch.
        dropout: 0.1 wherever GPT-2 has it.
        remat: where the row does not say.
        sequence_parallel: under tensor parallelism the residual stream is cut, where the row does
            not say.
        tied: whether embedding and output projection are one, where the row does not say.
        learned_positions: a table of positions.
        pad_vocab: multiple that the vocabulary is padded to, per tensor shard.
        cut: how layers are dealt out over pipeline stages, a key of `stages.CUTS`.
        schedule: of pipelines that are not interleaved.
    """

    pattern: str
    source: str
    eager: bool = True
    overlap: bool = True
    flash: str = "flash2"
    causal_kernel: bool = True
    softmax_dtype: str = "float32"
    param_dtype: str = "compute"
    master: bool = True
    grad_dtype: str = "float32"
    local_sums: bool = True
    dropout: bool = False
    remat: str = "none"
    sequence_parallel: bool = False
    tied: bool = True
    learned_positions: bool = True
    pad_vocab: int = 128
    cut: str = "evenly"
    schedule: str = "1f1b"


_XLA = Framework(
    pattern="",
    eager=False,
    source="parameters and Adam in float32, cast for use; gradients reduced in every microbatch",
    param_dtype="float32",
    master=False,
    grad_dtype="float32",
    local_sums=False,
    tied=False,
    learned_positions=False,
    pad_vocab=1,
)

FRAMEWORKS = (
    Framework(
        pattern=r"^Megatron-LM",
        source="Narayanan et al., arXiv:2104.04473; Korthikanti et al., arXiv:2205.05198, section "
        "6.3: gradients are reduced after the last microbatch, beside nothing",
        overlap=False,
        flash="",
        dropout=True,
        remat="full",
    ),
    Framework(
        pattern=r"^Megatron-DeepSpeed",
        source="as Megatron-LM, but DeepSpeed's engine adds up and sends gradients in the dtype "
        "computed in (DeepSpeed, config JSON: communication_data_type)",
        overlap=False,
        flash="",
        grad_dtype="compute",
        dropout=True,
        remat="full",
    ),
    Framework(
        pattern=r"^DeepSpeed ZeRO-3",
        source="Narayanan et al., arXiv:2104.04473, section 5.2; DeepSpeed, config JSON: "
        "overlap_comm is off unless asked for, communication_data_type as above",
        overlap=False,
        flash="",
        grad_dtype="compute",
        local_sums=False,
        dropout=True,
        remat="full",
    ),
    Framework(
        pattern=r"^Megatron-(Core|Bridge)",
        source="Megatron-Core's --overlap-grad-reduce, --overlap-param-gather and, with tensor "
        "parallelism, --sequence-parallel",
        sequence_parallel=True,
        learned_positions=False,
        tied=False,
    ),
    Framework(
        pattern=r"^nanotron",
        source="nanotron: bfloat16 parameters, float32 gradients and master copies; flash-attn 2. "
        "Its published grid shows gradients reduced beside nothing: from 8 to 256 replicas of the "
        "1.34B model, each with the same microbatches, a step grows by the whole reduction. "
        "Stages: `build_model` in its models/base.py",
        overlap=False,
        learned_positions=False,
        cut="by weights",
    ),
    Framework(
        pattern=r"^Composer",
        source="PyTorch FSDP, arXiv:2304.11277: float32 shards, gathered and reduced in "
        "bfloat16 in every microbatch; llm-foundry's attn_impl triton",
        flash="flash1",
        param_dtype="float32",
        master=False,
        local_sums=False,
    ),
    Framework(
        pattern=r"^OneFlow",
        source="OneFlow-Benchmark, LanguageModeling/GPT",
        flash="",
        dropout=True,
        remat="full",
    ),
    replace(
        _XLA,
        pattern=r"^Alpa",
        source="Alpa, benchmark/alpa: fp16 parameters and float32 master copies; alpa/model: "
        "unfused scores, softmax in the dtype of the model",
        flash="",
        softmax_dtype="compute",
        param_dtype="compute",
        master=True,
        grad_dtype="compute",
        learned_positions=True,
        tied=True,
        remat="none",
        overlap=False,
    ),
    replace(
        _XLA,
        pattern=r"JAX|Levanter",
        source="MaxText, base.yml: logical axis rules put activation_embed on the tensor axis",
        sequence_parallel=True,
    ),
)

# Attention kernels, forward and backward: part of the chip's peak that they reach, by family.
# * FlashAttention reaches 25 to 40 % on A100, FlashAttention-2 50 to 73 % (Dao, arXiv:2307.08691,
#   abstract and introduction; the middles here), and 35 % on H100 (Shah et al., arXiv:2407.08608,
#   abstract). FlashAttention on H100 is taken to be as much slower as it is on A100.
# * Elsewhere nothing is published that we know of; half of the peak is assumed.
KERNELS: dict[str, dict[str, float]] = {
    "flash1": {"a100": 0.325, "h100": 0.35 * 0.325 / 0.615, "": 0.5},
    "flash2": {"a100": 0.615, "h100": 0.35, "": 0.5},
}


def kernel_rate(framework: Framework, family: str) -> float:
    """What the framework's attention kernel reaches of a chip family's peak."""
    rates = KERNELS[framework.flash]
    return rates.get(family, rates[""])


_HALF = re.compile(r"fp16|float16")


class UnknownFramework(LookupError):
    """No line of the table is about it."""


def framework_of(row: Row) -> Framework:
    """The line of the table.

    Raises:
        UnknownFramework: there is none.
    """
    for one in FRAMEWORKS:
        if re.search(one.pattern, row.framework):
            return one
    raise UnknownFramework(f"nothing is known of how {row.framework or 'an unnamed one'} trains")


def compute_dtype(row: Row) -> str:
    """What matmuls compute in; where the row is silent, what its hardware was used with."""
    text = row.precision.lower()
    if "fp8" in text or "nvfp4" in text:
        return "float8_e4m3fn"
    if text in ("fp32", "float32"):
        return "float32"
    if _HALF.search(text) or (not text and re.search("V100|A100", row.hardware)):
        return "float16"
    return "bfloat16"


def remat_of(row: Row, framework: Framework) -> str:
    """One of `decoder.REMAT`.

    Raises:
        ValueError: the row names a policy that we do not model.
    """
    text = row.remat.lower()
    for start, ours in (
        ("full", "full"),
        ("selective", "selective"),
        ("none", "none"),
        ("minimal", "dots"),
        ("dots", "dots"),
        ("save_dot", "dots"),
    ):
        if text.startswith(start):
            return ours
    if not text:
        return framework.remat
    raise ValueError(f"recomputation policy {row.remat!r} is not modelled")
