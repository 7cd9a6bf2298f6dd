"""The shape of a plan in JSON, derived from the dataclasses it stands for.

Every dataclass becomes a msgspec Struct of the same fields that omits defaults and refuses keys it
does not know, so that a typo in a file edited by hand is an error and not a lost wish. A `Spec` is
written the way a `PartitionSpec` reads: `["data", null, ["data", "tensor"]]`.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from autoshard.program.spec import Spec

SpecJson = list[str | list[str] | None]


@cache
def struct_of(cls: type) -> type[msgspec.Struct]:
    """The Struct a dataclass is read through."""
    hints = get_type_hints(cls)
    members: list[Any] = []
    for f in dataclasses.fields(cls):
        member: tuple[Any, ...] = (f.name, _wire(hints[f.name]))
        if f.default is not dataclasses.MISSING:
            member = (*member, f.default)
        members.append(member)
    return msgspec.defstruct(
        cls.__name__,
        members,
        namespace={"__doc__": (cls.__doc__ or "").split("\n")[0]},
        forbid_unknown_fields=True,
        kw_only=True,
    )


def _wire(hint: Any) -> Any:
    if hint is Spec:
        return SpecJson
    if dataclasses.is_dataclass(hint):
        return struct_of(hint)  # type: ignore[arg-type]
    arguments = get_args(hint)
    if not arguments:
        return hint
    inner = tuple(a if a is Ellipsis else _wire(a) for a in arguments)
    origin = get_origin(hint)
    return Union[inner] if origin is UnionType else origin[inner]  # noqa: UP007 - built at run time


def to_plain(value: Any) -> Any:
    """A value as dicts, lists and scalars. Fields at their default are left out.

    Integral floats become ints: they read better, and are read back as floats all the same.
    """
    if isinstance(value, Spec):
        return [None if not d else d[0] if len(d) == 1 else list(d) for d in value.dims]
    if dataclasses.is_dataclass(value):
        return {
            f.name: to_plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.default is dataclasses.MISSING or getattr(value, f.name) != f.default
        }
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def from_struct(hint: Any, value: Any) -> Any:
    """The dataclass value that a decoded Struct stands for.

    Raises:
        ValueError: a value that its class refuses, such as a spec that uses an axis twice.
    """
    if hint is Spec:
        return Spec.of(*value)
    if get_origin(hint) is UnionType and isinstance(value, msgspec.Struct):
        (hint,) = (h for h in get_args(hint) if dataclasses.is_dataclass(h))
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        fields = dataclasses.fields(hint)
        return hint(**{f.name: from_struct(hints[f.name], getattr(value, f.name)) for f in fields})  # type: ignore[operator]
    if get_origin(hint) is tuple and isinstance(value, tuple):
        inner = get_args(hint)
        if inner[1:] == (Ellipsis,):
            inner = inner[:1] * len(value)
        return tuple(from_struct(h, v) for h, v in zip(inner, value, strict=True))
    return value
