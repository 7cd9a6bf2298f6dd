"""What the compiler says of a plan: its memory and its communication."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from autoshard.execute.program import Executable
from autoshard.trace.source import is_library
from autoshard.verify.collectives import Seen, collectives
from autoshard.verify.complaints import complaints


@dataclass(frozen=True, slots=True)
class Witness:
    """A compiled plan, as a value.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        argument_bytes, output_bytes, alias_bytes, temporary_bytes: of one device, as XLA's
            buffer assignment has them; what is aliased counts as argument and as output.
        collectives: every tensor that is sent.
        compile_s: wall clock of lowering and compiling.
        complaints: what the partitioner warned of, such as values it had to make whole.
    """

    platform: str
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    collectives: tuple[Seen, ...]
    compile_s: float
    complaints: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """Memory that the program needs on one device while it runs."""
        # Not `peak_memory_in_bytes`: it leaves temporaries out on CPU, and counts what lives in
        # a TPU's VMEM, which takes nothing from HBM.
        kept = self.argument_bytes + self.output_bytes - self.alias_bytes
        return kept + self.temporary_bytes


def merged(witness: Witness) -> Witness:
    """The same with equal collectives of one user line counted together, fit to be kept in a file.

    Names that XLA made up and directories are left out; nothing that a comparison weighs.
    """
    counts: dict[Seen, int] = {}
    for seen in witness.collectives:
        alike = replace(
            seen,
            count=1,
            name="",
            op_name=seen.op_name.rpartition("/")[2],
            source=os.path.basename(seen.source),
        )
        counts[alike] = counts.get(alike, 0) + seen.count
    return replace(witness, collectives=tuple(replace(seen, count=n) for seen, n in counts.items()))


def compile_plan(run: Executable, platform: str, tell: Callable[[str], None]) -> Witness:
    """Compile a planned function and read what came of it.

    Args:
        run: of the plan, on devices of the compiler's.
        platform: of these devices.
        tell: is told what is being done.
    """
    began_s = time.monotonic()
    tell("lowering")
    lowered = run.lower()
    tell("in XLA")
    with TemporaryDirectory() as place:
        with complaints() as heard:
            compiled = _compiled(lowered, dump_options(platform, place))
        compile_s = time.monotonic() - began_s
        tell("reading the result")
        text = dumped(Path(place)) or compiled.as_text()
    return witness_of(compiled, text, run.plan.mesh.sizes, platform, compile_s, tuple(heard))


# Where no GPU is there to try kernels on, XLA's generator of matmul kernels gives up on some shapes
# (197 tokens of a vision transformer); cuBLAS takes them all, and is what XLA would turn to.
_GIVES_UP = "output tile sizes"
_WITHOUT_KERNELS = {"xla_gpu_enable_triton_gemm": False}


def _compiled(lowered: Any, options: dict[str, Any] | None) -> Any:
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if _GIVES_UP not in str(error):
            raise
        return lowered.compile(compiler_options=(options or {}) | _WITHOUT_KERNELS)


def _tpu_dump(place: str) -> dict[str, Any]:
    return {
        "xla_dump_to": place,
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_pass_re": "^$",  # the result, and no step on the way
    }


# A libtpu younger than jaxlib makes modules that jaxlib refuses to read back ("async-update
# instruction should have 1 operands"): there the compiler itself is asked to write the text.
_DUMPS: dict[str, Callable[[str], dict[str, Any]]] = {"tpu": _tpu_dump}


def dump_options(platform: str, place: str) -> dict[str, Any] | None:
    """Options by which a compiler writes its scheduled module to a directory, where it must."""
    return _DUMPS[platform](place) if platform in _DUMPS else None


def dumped(place: Path) -> str:
    """The scheduled module that the compiler wrote; "" where it wrote none."""
    found = sorted(place.glob("*.after_optimizations.txt"), key=lambda file: file.stat().st_size)
    return found[-1].read_text() if found else ""


def witness_of(
    compiled: Any,
    text: str,
    sizes: dict[str, int],
    platform: str,
    compile_s: float = 0.0,
    heard: tuple[str, ...] = (),
) -> Witness:
    """Read a `jax.stages.Compiled` and the text of its scheduled module."""
    memory = compiled.memory_analysis()
    return Witness(
        platform=platform,
        argument_bytes=int(memory.argument_size_in_bytes),
        output_bytes=int(memory.output_size_in_bytes),
        alias_bytes=int(memory.alias_size_in_bytes),
        temporary_bytes=int(memory.temp_size_in_bytes),
        collectives=collectives(text, sizes, is_library),
        compile_s=compile_s,
        complaints=heard,
    )
