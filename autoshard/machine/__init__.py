"""Machines: chips, links and topologies with their sources, and meshes laid over them."""

from autoshard.machine.catalogue import CatalogEntry, Citation, load_catalog
from autoshard.machine.devices import machine_for_devices
from autoshard.machine.errors import CatalogError, MachineError
from autoshard.machine.meshes import legal_meshes, mesh_from_sizes
from autoshard.machine.model import Chip, LogicalMesh, Machine, MeshAxis
from autoshard.machine.network import Network, Switched, Torus
from autoshard.machine.parse import parse_machine

__all__ = [
    "CatalogEntry",
    "CatalogError",
    "Chip",
    "Citation",
    "LogicalMesh",
    "Machine",
    "MachineError",
    "MeshAxis",
    "Network",
    "Switched",
    "Torus",
    "legal_meshes",
    "load_catalog",
    "machine_for_devices",
    "mesh_from_sizes",
    "parse_machine",
]
