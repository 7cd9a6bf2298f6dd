"""What joins the devices of a machine: a torus of links, slices of them, or switches and a network.

Rates are one way, in bytes/s, as a program can use them. Latencies are in seconds. What a
mesh axis gets of it is told in `torus.py`, `slices.py` and `switched.py`.
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
        cores_per_chip: JAX devices on one chip; they share its links, and are the last dimension
            of a topology where they are more than one.
        core_bytes_per_s: between them; None: not known, taken to be no slower than all links of
            the chip together.
    """

    pod_shape: tuple[int, ...]
    max_chips: int
    link_bytes_per_s: float
    hop_latency_s: float
    wrap_multiple: int
    wrap_whole_blocks: bool
    base_latency_s: float = 0.0
    cores_per_chip: int = 1
    core_bytes_per_s: float | None = None

    @property
    def rank(self) -> int:
        """Dimensions of chips, without the one of cores."""
        return len(self.pod_shape)

    def wraps(self, topology: tuple[int, ...]) -> tuple[bool, ...]:
        """Which dimensions of chips close to a ring in a slice of this shape."""
        fits = tuple(size % self.wrap_multiple == 0 for size in topology[: self.rank])
        return tuple(all(fits) for _ in fits) if self.wrap_whole_blocks else fits


@dataclass(frozen=True, slots=True)
class Slices:
    """Several slices of a torus, joined by the data-center network of their hosts.

    Attributes:
        torus: what each slice is; the slices are the first dimension of a topology.
        dcn_bytes_per_s: what one device can send to other slices: its share of its host's network.
        dcn_latency_s: of one step of a ring through the slices.
    """

    torus: Torus
    dcn_bytes_per_s: float
    dcn_latency_s: float


@dataclass(frozen=True, slots=True)
class Switched:
    """Nodes in which every device reaches every other, and a network between the nodes.

    Attributes:
        link_name: for people: "NVLink", "xGMI", "shared memory".
        domain_devices: most devices in one node.
        device_bytes_per_s: what one device can send inside its node when it talks to all others.
        base_latency_s: to start any collective.
        hop_latency_s: of one ring step inside a node.
        efficiency: of that rate, what large ring collectives reach.
        pair_bytes_per_s: between any two devices where each pair has its own link; None: there is
            a switch, and two devices see the full rate.
        reduce_bytes_per_s: bytes of an array that is all-reduced inside the switch, per second
            (NCCL's "algorithm bandwidth"); None: the switch does not reduce.
        reduce_latency_s: of such an all-reduce.
        node_bytes_per_s: what a whole full node can send to others; None: there is one node only.
        node_hop_latency_s: of one ring step between nodes.
        tree_hop_latency_s, node_tree_hop_latency_s: of one step of a tree of devices inside a node
            and of nodes; None: all-reduces run as rings only.
    """

    link_name: str
    domain_devices: int
    device_bytes_per_s: float
    base_latency_s: float
    hop_latency_s: float
    efficiency: float = 1.0
    pair_bytes_per_s: float | None = None
    reduce_bytes_per_s: float | None = None
    reduce_latency_s: float = 0.0
    node_bytes_per_s: float | None = None
    node_hop_latency_s: float = 0.0
    tree_hop_latency_s: float | None = None
    node_tree_hop_latency_s: float | None = None

    def inside_bytes_per_s(self, devices: int) -> float:
        """What one device reaches in a ring collective among this many in a node."""
        rate = self.device_bytes_per_s * self.efficiency
        if self.pair_bytes_per_s is None:
            return rate
        return min(rate, (devices - 1) * self.pair_bytes_per_s)

    @property
    def between_two_bytes_per_s(self) -> float:
        """What one device of a node sends to one other."""
        return self.inside_bytes_per_s(2)


Network = Torus | Slices | Switched
