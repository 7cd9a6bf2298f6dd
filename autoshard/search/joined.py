"""Partial sums that are added up before they are sent.

The gradients of queries, keys and values with respect to what all three were made from are three
partial sums, added. Compilers for TPU and GPU add the parts first and send the total once
(`AllReduceReassociate` and `ReduceScatterReassociate` of XLA; both seen in compiled programs), so
the three share one reshard.
"""

from __future__ import annotations

from autoshard.search.graph import Graph

_SUMS = frozenset({"add", "add_any"})


def joined_sums(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Groups of flows, by index, whose partial sums meet in additions and go nowhere else."""
    program = graph.program
    readers = [0] * len(program.tensors)
    for op in program.ops:
        for t in op.inputs:
            if t is not None:
                readers[t] += 1
    # By tensor that is a sum of partial sums alone: the flows that end in it.
    pending: dict[int, tuple[int, ...]] = {
        f.tensor: (i,) for i, f in enumerate(graph.flows) if f.partial
    }
    inner: set[int] = set()
    for op in program.ops:
        parts = [pending[t] for t in op.inputs if t in pending and readers[t] == 1]
        if op.kind in _SUMS and len(parts) == 2:
            pending[op.outputs[0]] = parts[0] + parts[1]
            inner.update(t for t in op.inputs if t is not None)
    return tuple(flows for t, flows in pending.items() if len(flows) > 1 and t not in inner)
