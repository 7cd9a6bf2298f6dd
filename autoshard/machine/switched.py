"""What a logical axis gets from nodes of switched devices, and from the network between them.

Formulas follow "How to Scale Your Model", GPU chapter
(https://jax-ml.github.io/scaling-book/gpus/), latencies NCCL's tuner
(https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc). For an axis with g devices in
each of m nodes of G devices: inside one node a device sends at the switch's full rate; between
nodes the G / g groups of the axis share the node's network, so its devices get at most g / G of
it together. In-switch reduction is not modelled.
"""

from __future__ import annotations

import itertools
import math

from autoshard.machine.model import MeshAxis
from autoshard.machine.network import Switched
from autoshard.machine.placement import Piece
from autoshard.machine.walk import Cell


def switched_axis(
    name: str, size: int, pieces: tuple[Piece, ...], network: Switched, topology: tuple[int, ...]
) -> MeshAxis:
    """The axis that these pieces make. See the module docstring."""
    if size == 1:
        return MeshAxis(name, 1, network.device_bytes_per_s, 0.0)
    steps = size - 1
    per_node = topology[-1]
    nodes = math.prod(piece.size for piece in pieces if piece.dim < len(topology) - 1)
    inner = size // nodes
    inside_s = (steps - (nodes - 1)) * network.hop_latency_s
    between_s = (nodes - 1) * network.node_hop_latency_s
    latency_s = (network.base_latency_s + inside_s + between_s) / steps
    if nodes == 1 or network.node_bytes_per_s is None:
        return MeshAxis(
            name,
            size,
            network.device_bytes_per_s,
            latency_s,
            link=f"{network.link_name} ({size})",
            hop_latency_s=network.base_latency_s + network.hop_latency_s,
        )
    ring = min(network.device_bytes_per_s, network.node_bytes_per_s * inner / per_node)
    device_share = network.node_bytes_per_s / per_node
    # Of the bytes a device holds, (nodes - 1) / nodes leave the node.
    slowest_s_per_byte = max(
        (nodes - 1) / nodes / device_share, steps / size / network.device_bytes_per_s
    )
    within = f", {network.link_name} {inner} within" if inner > 1 else ""
    return MeshAxis(
        name,
        size,
        bytes_per_s=ring,
        latency_s=latency_s,
        link=f"network ({nodes} nodes{within})",
        all_to_all_bytes_per_s=steps / size / slowest_s_per_byte,
        neighbour_bytes_per_s=ring,
        hop_latency_s=network.base_latency_s + network.node_hop_latency_s,
    )


def switched_order(pieces: tuple[Piece, ...]) -> tuple[Cell, ...]:
    """Positions along an axis as coordinates within its pieces: node by node."""
    return tuple(itertools.product(*(range(piece.size) for piece in pieces)))
