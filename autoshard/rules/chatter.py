"""Ops for which compilers send more than their rules say, and why.

The numbers are right, and the rules stay: what is sent is small, or sent by one compiler only.
tests/rules compiles each, so that what a compiler has learned is taken off this table.
"""

from __future__ import annotations

from collections.abc import Mapping

_LOOP = "a loop that ends once all elements have converged: one truth is combined in every round"
_KERNEL = "XLA for CPU calls a kernel that its partitioner does not cut, and gathers the operand"

_WHY: Mapping[str, str] = {
    _LOOP: "igamma igamma_grad_a igammac random_gamma regularized_incomplete_beta",
    _KERNEL: "top_k",
}

CHATTER: Mapping[str, str] = {name: why for why, names in _WHY.items() for name in names.split()}
