"""Calls as the compiler sees them: static values apart, everything else positional.

`jax.jit` refuses keyword arguments together with `in_shardings`, so a call is taken apart here:
a `Layout` says which values are static and how the dynamic ones were passed, and rebuilds the
call from them. Layouts are hashable; each has its own traces and plans.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.options import Options, as_tuple


@dataclass(frozen=True)
class Layout:
    """How a call is made.

    Attributes:
        n_args: number of positional arguments, static ones included.
        keywords: names of dynamic keyword arguments, in the order they are flattened.
        static_args: (position, value) pairs.
        static_keywords: (name, value) pairs.
        static_types: of all static values; 1, 1.0 and True are equal, and not the same program.
    """

    n_args: int
    keywords: tuple[str, ...] = ()
    static_args: tuple[tuple[int, Any], ...] = ()
    static_keywords: tuple[tuple[str, Any], ...] = ()
    static_types: tuple[type, ...] = ()

    def rebuild(self, dynamic: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The call's args and kwargs from its dynamic values."""
        values = iter(dynamic)
        static = dict(self.static_args)
        args = [static[i] if i in static else next(values) for i in range(self.n_args)]
        kwargs = {name: next(values) for name in self.keywords}
        return args, {**kwargs, **dict(self.static_keywords)}

    @property
    def statics(self) -> tuple[Any, ...]:
        return (self.static_args, self.static_keywords, self.static_types)

    def dynamic_positions(self) -> list[int]:
        static = dict(self.static_args)
        return [i for i in range(self.n_args) if i not in static]


def function_name(fn: Callable[..., Any]) -> str:
    """What to call a function: partials by what they wrap, callable objects by their class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))


class Calls:
    """Takes calls of one function apart, by its static and donated arguments."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self.name = function_name(fn)
        try:
            self.parameters = tuple(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):
            self.parameters = ()
        self.names = [
            p.name
            for p in self.parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self.static_names = set(as_tuple(options.static_argnames))
        self.donate_names = set(as_tuple(options.donate_argnames))
        known = {p.name for p in self.parameters}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in self.parameters)
        for option, names in (
            ("static_argnames", self.static_names),
            ("donate_argnames", self.donate_names),
        ):
            if self.parameters and not takes_any and not names <= known:
                raise ValueError(
                    f"{option} names {sorted(names - known)}, but {self.name} takes {sorted(known)}"
                )
        self.static_nums = self._positions("static_argnums", options.static_argnums)
        self.donate_nums = self._positions("donate_argnums", options.donate_argnums)
        self.static_nums |= {i for i, n in enumerate(self.names) if n in self.static_names}
        self.donate_nums |= {i for i, n in enumerate(self.names) if n in self.donate_names}
        self.static_names |= {self.names[i] for i in self.static_nums if i < len(self.names)}
        self.donate_names |= {self.names[i] for i in self.donate_nums if i < len(self.names)}
        both = self.static_nums & self.donate_nums
        if both:
            raise ValueError(f"arguments {sorted(both)} are both static and donated")
        self.plain = not (self.static_nums or self.static_names)

    def _positions(self, option: str, value: Any) -> set[int]:
        n = len(self.names)
        variadic = any(p.kind is p.VAR_POSITIONAL for p in self.parameters)
        out: set[int] = set()
        for i in as_tuple(value):
            if self.parameters and not variadic and not -n <= i < n:
                raise ValueError(
                    f"{option} holds {i}, but {self.name} takes {n} positional arguments"
                )
            out.add(i % n if i < 0 else i)
        return out

    def _place(self, name: str) -> tuple[int, str]:
        declared = self.names.index(name) if name in self.names else len(self.names)
        return declared, name

    def split(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Layout, tuple[Any, ...]]:
        """A call as (layout, dynamic values).

        Raises:
            TypeError: a static argument is not hashable.
        """
        if self.plain and not kwargs:
            return Layout(len(args)), args
        static_args = tuple((i, v) for i, v in enumerate(args) if i in self.static_nums)
        static_kw = tuple((k, kwargs[k]) for k in sorted(kwargs) if k in self.static_names)
        for where, value in (*static_args, *static_kw):
            try:
                hash(value)
            except TypeError:
                name = where
                if isinstance(where, int):
                    name = self.names[where] if where < len(self.names) else f"argument {where}"
                raise TypeError(
                    f"static argument {name!r} of {self.name} is a"
                    f" {type(value).__name__}, which is not hashable. Static arguments are part of"
                    " the key under which the compiled program is kept: pass a tuple instead of a"
                    " list, or a frozen dataclass instead of a dict."
                ) from None
        # As they are declared, so that the program is the one of the call without keywords.
        keywords = tuple(k for k in sorted(kwargs, key=self._place) if k not in self.static_names)
        dynamic = [v for i, v in enumerate(args) if i not in self.static_nums]
        dynamic += [kwargs[k] for k in keywords]
        types = tuple(type(value) for _, value in (*static_args, *static_kw))
        return Layout(len(args), keywords, static_args, static_kw, types), tuple(dynamic)

    def dynamic_names(self, layout: Layout) -> list[str]:
        """What to call each dynamic value."""
        out = [
            self.names[i] if i < len(self.names) else f"arg{i}" for i in layout.dynamic_positions()
        ]
        return [*out, *layout.keywords]

    def donated(self, layout: Layout) -> frozenset[int]:
        """Indices of donated values among the dynamic ones."""
        positions = layout.dynamic_positions()
        found = {k for k, i in enumerate(positions) if i in self.donate_nums}
        start = len(positions)
        found |= {start + k for k, n in enumerate(layout.keywords) if n in self.donate_names}
        return frozenset(found)
