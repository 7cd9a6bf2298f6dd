"""What joins the devices of a machine: a torus of links, or a switch with a network behind it.

Rates are one way, in bytes/s, as a program can use them. Latencies are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Torus:
    """A grid of chips with links between neighbours, as in TPU slices.

    Attributes:
        pod_shape: the longest each dimension can be; its length is the number of dimensions.
        max_chips: of the largest slice.
        link_bytes_per_s: one link, one way.
        hop_latency_s: to a neighbour.
        wrap_multiple: a dimension can close to a ring when its length is a multiple of this.
        wrap_whole_blocks: whether it does so only if all dimensions are such multiples.
        base_latency_s: to start any collective.
    """

    pod_shape: tuple[int, ...]
    max_chips: int
    link_bytes_per_s: float
    hop_latency_s: float
    wrap_multiple: int
    wrap_whole_blocks: bool
    base_latency_s: float = 0.0

    def wraps(self, topology: tuple[int, ...]) -> tuple[bool, ...]:
        """Which dimensions of a slice of this shape close to a ring."""
        fits = tuple(size % self.wrap_multiple == 0 for size in topology)
        return tuple(all(fits) for _ in fits) if self.wrap_whole_blocks else fits


@dataclass(frozen=True, slots=True)
class Switched:
    """Nodes in which every device reaches every other at full rate, and a network between them.

    Attributes:
        link_name: for people: "NVLink", "shared memory".
        domain_devices: most devices in one node.
        device_bytes_per_s: what one device can send inside its node.
        base_latency_s: to start any collective.
        hop_latency_s: of one ring step inside a node.
        node_bytes_per_s: what one whole node can send to others; None: there is one node only.
        node_hop_latency_s: of one ring step between nodes.
    """

    link_name: str
    domain_devices: int
    device_bytes_per_s: float
    base_latency_s: float
    hop_latency_s: float
    node_bytes_per_s: float | None = None
    node_hop_latency_s: float = 0.0


Network = Torus | Switched
