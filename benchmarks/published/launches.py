"""Steps that wait for the Python process that launches their kernels, one by one."""

from __future__ import annotations

from collections.abc import Sequence

from autoshard.plan.model import Collective
from autoshard.program.ir import Op, Program
from autoshard.program.rule import OpClass

# A collective is called through a process group, which records and waits for events on top of the
# launch; about this many launches' time.
_LAUNCHES_OF_COLLECTIVE = 4
# Beside reshapes and transposes: in PyTorch no kernel, but another view of the same memory
# (`torch.Tensor.expand`, https://pytorch.org/docs/stable/tensor_view.html).
_VIEWS = frozenset({"broadcast_in_dim"})


def launches(program: Program, collectives: Sequence[Collective]) -> int:
    """Kernels of one step, in launches."""
    kernels = sum(program.times(op.region) for op in program.ops if _is_kernel(op))
    return kernels + _LAUNCHES_OF_COLLECTIVE * sum(c.count for c in collectives)


def _is_kernel(op: Op) -> bool:
    return op.rule.op_class is not OpClass.FREE and op.kind not in _VIEWS
