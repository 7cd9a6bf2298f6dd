"""What a logical axis gets from several slices that the data-center network joins.

With `D` what one device may send to other slices, an axis of s slices with m devices in each:

* all-gather of V bytes: every device first fetches, over the network, what its counterparts in the
  other slices hold, V (s - 1) / (s m) bytes at `D`; then the slice gathers among itself as it would
  alone. The two are one after the other, so their times add. For m = 1 this is "How to Scale Your
  Model"'s bytes over (hosts * rate of a host)
  (https://jax-ml.github.io/scaling-book/sharding/#what-happens-across-slices), and it is the order
  in which XLA's multi-slice collectives run
  (https://docs.cloud.google.com/tpu/docs/multislice-introduction).
* an all-to-all sends (s - 1) / s of what a device holds over the network, at the same time as it
  exchanges the rest inside.
* neighbours along the axis may stand in different slices: a permute runs at `D`.

An axis takes its devices slice by slice: JAX wants the part of an axis that lies on the network to
be the outer one (`jax.experimental.mesh_utils.create_hybrid_device_mesh`).
"""

from __future__ import annotations

from dataclasses import replace

from autoshard.machine.model import MeshAxis
from autoshard.machine.network import Slices
from autoshard.machine.placement import Piece, outer_size
from autoshard.machine.torus import torus_axis, torus_order
from autoshard.machine.walk import Cell


def slices_axis(
    name: str, size: int, pieces: tuple[Piece, ...], network: Slices, topology: tuple[int, ...]
) -> MeshAxis:
    """The axis that these pieces make. See the module docstring."""
    slices = outer_size(pieces)
    devices = size // slices
    inside = torus_axis(name, devices, _inside(pieces), network.torus, topology[1:])
    if slices == 1:
        return inside
    steps, dcn = size - 1, network.dcn_bytes_per_s
    leaves = (slices - 1) / slices
    s_per_byte = leaves / devices / dcn + (devices - 1) / devices / inside.bytes_per_s
    exchange_s_per_byte = leaves / dcn
    if devices > 1 and inside.all_to_all_bytes_per_s is not None:
        within = (devices - 1) / devices / inside.all_to_all_bytes_per_s
        exchange_s_per_byte = max(exchange_s_per_byte, within)
    latency_s = (slices - 1) * network.dcn_latency_s + (devices - 1) * inside.latency_s
    within_link = f", {inside.link} within" if inside.link else ""
    return MeshAxis(
        name,
        size,
        bytes_per_s=steps / size / s_per_byte,
        latency_s=latency_s / steps,
        link=f"DCN ({slices} slices{within_link})",
        all_to_all_bytes_per_s=steps / size / exchange_s_per_byte,
        neighbour_bytes_per_s=min(dcn, inside.neighbour_bytes_per_s or dcn),
        hop_latency_s=network.dcn_latency_s,
    )


def slices_order(pieces: tuple[Piece, ...], network: Slices) -> tuple[Cell, ...]:
    """Positions along an axis: slice by slice, neighbours in a row within each."""
    outer = [(k,) for k in range(outer_size(pieces))] if outer_size(pieces) > 1 else [()]
    inner = torus_order(_inside(pieces), network.torus)
    return tuple((*slice_, *cell) for slice_ in outer for cell in inner)


def _inside(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return tuple(replace(piece, dim=piece.dim - 1) for piece in pieces if piece.dim > 0)
