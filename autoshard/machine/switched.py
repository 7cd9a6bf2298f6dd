"""What a logical axis gets from nodes of joined devices, and from the network between them.

Formulas follow "How to Scale Your Model", GPU chapter
(https://jax-ml.github.io/scaling-book/gpus/), latencies NCCL's tuner
(https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc). For an axis with g devices in
each of m nodes of G devices:

* inside one node a device sends at the switch's full rate times what rings reach of it. Without a
  switch, where each pair has its own link of rate p (MI300X, and roughly V100), an axis of g
  devices uses g - 1 of a device's links: (g - 1) p.
* between nodes the G / g groups of the axis share the node's network: a device gets at most g / G
  of it. For g = G that is the whole node's rate, in the book's words: the term across nodes is
  divided by the devices of a node. A node that is not full has its share of the network.
* a ring's latency grows with its steps: n - m steps inside nodes, m - 1 between.
* an all-reduce may also run inside the switch (NVLink SHARP, one node): one pass instead of two, at
  a measured rate per byte of the array; or along a tree of nodes, whose latency grows with log2 m
  at the ring's bandwidth: base + 2 ((g - 1) h + ceil(log2 m) h').
* an all-to-all sends (m - 1) / m of what a device holds over the network, the rest inside.

The hybrid cube of V100 is taken as pairs of equal links; in truth some pairs have two, some none.
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
    nodes = math.prod(piece.size for piece in pieces if piece.dim < len(topology) - 1)
    if nodes == 1 or network.node_bytes_per_s is None:
        return _inside_a_node(name, size, network)
    return _between_nodes(name, size, nodes, network, network.node_bytes_per_s, topology[-1])


def _inside_a_node(name: str, size: int, network: Switched) -> MeshAxis:
    steps = size - 1
    rate = network.inside_bytes_per_s(size)
    other = []
    if network.reduce_bytes_per_s is not None:
        other.append((network.reduce_latency_s, 1 / network.reduce_bytes_per_s))
    return MeshAxis(
        name,
        size,
        bytes_per_s=rate,
        latency_s=(network.base_latency_s + steps * network.hop_latency_s) / steps,
        link=f"{network.link_name} ({size})",
        neighbour_bytes_per_s=network.between_two_bytes_per_s,
        hop_latency_s=network.base_latency_s + network.hop_latency_s,
        other_all_reduces=tuple(other),
    )


def _between_nodes(
    name: str, size: int, nodes: int, network: Switched, node_bytes_per_s: float, per_node: int
) -> MeshAxis:
    steps, inner = size - 1, size // nodes
    inside_s = (size - nodes) * network.hop_latency_s
    between_s = (nodes - 1) * network.node_hop_latency_s
    # A node that is not full has no more than its devices' share of the network.
    device_share = node_bytes_per_s / network.domain_devices
    ring = device_share * inner
    if inner > 1:
        ring = min(ring, network.inside_bytes_per_s(inner))
    # Of the bytes a device holds, (nodes - 1) / nodes leave the node.
    exchange_s_per_byte = (nodes - 1) / nodes / device_share
    if inner > 1:
        within = (inner - 1) / size / network.inside_bytes_per_s(inner)
        exchange_s_per_byte = max(exchange_s_per_byte, within)
    within_link = f", {network.link_name} {inner} within" if inner > 1 else ""
    return MeshAxis(
        name,
        size,
        bytes_per_s=ring,
        latency_s=(network.base_latency_s + inside_s + between_s) / steps,
        link=f"network ({nodes} nodes{within_link})",
        all_to_all_bytes_per_s=steps / size / exchange_s_per_byte,
        neighbour_bytes_per_s=min(ring, network.between_two_bytes_per_s),
        hop_latency_s=network.base_latency_s + network.node_hop_latency_s,
        other_all_reduces=_trees(network, nodes, inner, 2 * steps / size / ring),
    )


def _trees(
    network: Switched, nodes: int, inner: int, s_per_byte: float
) -> tuple[tuple[float, float], ...]:
    hop_s, node_hop_s = network.tree_hop_latency_s, network.node_tree_hop_latency_s
    if hop_s is None or node_hop_s is None:
        return ()
    depth_s = (inner - 1) * hop_s + (nodes - 1).bit_length() * node_hop_s
    return ((network.base_latency_s + 2 * depth_s, s_per_byte),)


def switched_order(pieces: tuple[Piece, ...], network: Switched) -> tuple[Cell, ...]:
    """Positions along an axis as coordinates within its pieces: node by node."""
    return tuple(itertools.product(*(range(piece.size) for piece in pieces)))
