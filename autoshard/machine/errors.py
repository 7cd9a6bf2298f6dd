"""The error of this room: a machine that cannot be described, or a mesh that cannot be laid."""


class MachineError(ValueError):
    """Says what is wrong, with the numbers, and what to write instead."""


class CatalogError(MachineError):
    """A catalogue file is malformed: names the file and the key."""
