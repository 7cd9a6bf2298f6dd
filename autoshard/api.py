"""The decorator and `plan()`: everything a user calls."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import jax

from autoshard import _compat
from autoshard.errors import AutoshardWarning
from autoshard.execute.initialise import initialise
from autoshard.execute.program import Executable, OtherSignature, executable, say_moved
from autoshard.execute.shardings import jax_mesh
from autoshard.options import Options
from autoshard.plan.model import Plan
from autoshard.planning import machine_of, make_plan
from autoshard.report.progress import Progress
from autoshard.trace.calls import Calls, Layout
from autoshard.trace.function import Traced, trace
from autoshard.trace.nnx import Modules, holds_modules, put_back, take_apart
from autoshard.trace.signature import LeafInfo, Signature, signature
from autoshard.verify import cache
from autoshard.verify.compare import Comparison, compare
from autoshard.verify.devices import compiler_devices
from autoshard.verify.witness import compile_plan

# Frames between a warning and the line of the user's that called the step.
_USER_FRAME = 5


@dataclass(frozen=True)
class _Call:
    """One call, ready for tracing.

    Attributes:
        layout: how it was made.
        values: its dynamic values, NNX modules taken apart.
        names: what these are called.
        donated: which of them are donated.
        modules: how to put modules back, None if there were none.
        pure: runs the user's function on the values.
    """

    layout: Layout
    values: tuple[Any, ...]
    names: tuple[str, ...]
    donated: frozenset[int]
    modules: Modules | None
    pure: Callable[..., Any]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What must agree, beside the signature, for two calls to share a plan."""
        return (self.layout, self.modules.graph if self.modules else None)


@dataclass
class _Entry:
    """What is known for one signature; `run` is built when something is to be run or compiled."""

    traced: Traced
    plan: Plan
    run: Executable | None = None


class Autosharded:
    """A function under `@autoshard`; call it as the function itself."""

    __name__: str

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self._fn, self._options = fn, options
        self._calls = Calls(fn, options)
        self._entries: dict[Any, dict[Any, _Entry]] = {}
        self._last: Plan | None = None
        # Where a kind of call has only ever had one signature, JAX's own dispatch checks it.
        self._only: dict[Any, Executable] = {}
        functools.update_wrapper(self, fn)

    # -- calling -----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compat.is_tracing():
            # Inside another transformation the function is what it was.
            return self._fn(*args, **kwargs)
        layout, dynamic = self._calls.split(args, kwargs)
        run = self._only.get(layout)
        if run is not None:
            try:
                return run.jitted(*dynamic)
            except (OtherSignature, TypeError, ValueError):
                # JAX refuses arguments that are shaped or placed otherwise before anything runs.
                # The slow way finds out which they are, and meets again whatever it can't mend.
                pass
        call = self._prepare(layout, dynamic)
        if call.modules is None:
            return self._run(call)
        state, out = self._run(call)
        put_back(call.modules, dynamic, state)
        return out

    def _run(self, call: _Call) -> Any:
        run = self._only.get(call.kind)
        if run is not None:
            try:
                return run.jitted(*call.values)
            except (OtherSignature, TypeError, ValueError):
                pass
        if isinstance(self._options.devices, str):
            raise ValueError(
                f"devices={self._options.devices!r} is a description; nothing can run on it. Use"
                f" {self.__name__}.plan_for(...) or {self.__name__}.lower(...).compile()"
            )
        with Progress() as progress:
            entry = self._entry(call, progress)
            fresh = entry.run is None
            run = self._executable(entry, call)
            placed, moved = run.place(call.values)
            if moved:
                say_moved(self.__name__, moved, run.plan)
            if fresh:
                progress.phase("compiling")
            out = run.jitted(*placed)
        self._remember(call, run)
        return out

    def _remember(self, call: _Call, run: Executable) -> None:
        """Let later calls go straight to the compiled program, as long as there is but one."""
        keys = [call.kind] if call.modules is not None else [call.kind, call.layout]
        for key in keys:
            if len(self._entries[call.kind]) == 1:
                self._only[key] = run
            else:
                self._only.pop(key, None)

    def _prepare(self, layout: Layout, dynamic: tuple[Any, ...]) -> _Call:
        names = self._calls.dynamic_names(layout)
        donated = self._calls.donated(layout)

        def call(*values: Any) -> Any:
            args, kwargs = layout.rebuild(values)
            return self._fn(*args, **kwargs)

        if not holds_modules(dynamic):
            return _Call(layout, dynamic, tuple(names), donated, None, call)
        modules, values = take_apart(dynamic, names)
        others = [i for i in range(len(dynamic)) if i not in modules.positions]
        new_names = ("", *(names[i] for i in others))
        new_donated = {1 + k for k, i in enumerate(others) if i in donated}
        if set(modules.positions) <= donated:
            new_donated.add(0)
        return _Call(layout, values, new_names, frozenset(new_donated), modules, modules.pure(call))

    def _entry(self, call: _Call, progress: Progress) -> _Entry:
        """The plan for a call's signature, made now if there is none."""
        sig = signature(call.values, call.names)
        entries = self._entries.setdefault(call.kind, {})
        if sig.key not in entries:
            if entries:
                previous = next(reversed(entries.values())).traced.signature
                warnings.warn(
                    f"{self.__name__}: planning again: {difference(previous, sig)}",
                    AutoshardWarning,
                    stacklevel=_USER_FRAME,
                )
            progress.phase("tracing")
            traced = trace(call.pure, sig, name=self.__name__, donated=call.donated)
            progress.phase("searching")
            entries[sig.key] = _Entry(traced, make_plan(traced, self._options, progress.update))
        entry = entries[sig.key]
        self._last = entry.plan
        return entry

    def _executable(self, entry: _Entry, call: _Call) -> Executable:
        if entry.run is None:
            mesh = jax_mesh(entry.plan.mesh, self._devices())
            entry.run = executable(entry.traced, entry.plan, mesh, call.donated)
        return entry.run

    def _devices(self) -> Sequence[Any]:
        devices = self._options.devices
        if isinstance(devices, str):
            return compiler_devices(machine_of(devices))
        if devices is None and isinstance(self._options.mesh, jax.sharding.Mesh):
            return list(self._options.mesh.devices.flat)
        return jax.devices() if devices is None else list(devices)

    # -- looking -----------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """The plan in use.

        Raises:
            RuntimeError: nothing was planned yet.
        """
        if self._last is None:
            raise RuntimeError(
                f"{self.__name__} has no plan yet: call it, or use"
                f" {self.__name__}.plan_for(*abstract_args)"
            )
        return self._last

    def plan_for(self, *args: Any, **kwargs: Any) -> Plan:
        """Plan for these arguments (arrays or `jax.ShapeDtypeStruct`s) without running."""
        call = self._prepare(*self._calls.split(args, kwargs))
        with Progress() as progress:
            return self._entry(call, progress).plan

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(f).lower`: `.compile()`, `.as_text()`, ..., with the plan applied."""
        call = self._prepare(*self._calls.split(args, kwargs))
        with Progress() as progress:
            entry = self._entry(call, progress)
        sig = entry.traced.signature
        structs = jax.tree_util.tree_unflatten(sig.in_tree, sig.structs)
        return self._executable(entry, call).jitted.lower(*structs)

    def verify(
        self, *args: Any, tolerance: float = 0.1, remember: bool = True, **kwargs: Any
    ) -> Comparison:
        """Compile the plan, and set what the compiler made of it beside what was predicted.

        Args:
            *args: as for the function: arrays or `jax.ShapeDtypeStruct`s.
            **kwargs: the same.
            tolerance: relative; decides `Comparison.agrees`.
            remember: keep what was compiled in the user's cache directory, and look there first.
        """
        call = self._prepare(*self._calls.split(args, kwargs))
        with Progress() as progress:
            entry = self._entry(call, progress)
            plan = entry.plan
            file = cache.place(plan, call.donated)
            witness = cache.load(file) if remember else None
            if witness is None:
                progress.phase(f"compiling for {plan.machine.name}")
                platform = machine_of(self._options.devices).chip.platform
                witness = compile_plan(self._executable(entry, call), platform, progress.update)
                cache.store(file, witness)
        return compare(plan, witness, tolerance)

    def init(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn(*args)` compiled, with its result placed as the plan wants the state.

        No device ever holds more than its own part of the result. Before the first plan there
        is no layout to follow: leaves are then split evenly over all devices, and moved once by
        the first call of the step; `plan_for(...)` beforehand avoids that.
        """
        if isinstance(self._options.devices, str):
            raise ValueError(
                f"devices={self._options.devices!r} is a description; nothing can run on it"
            )
        return initialise(fn, args, kwargs, self._last, self._devices())


def difference(old: Signature, new: Signature) -> str:
    """What changed between two signatures, in a phrase."""
    before = {leaf.path: leaf for leaf in old.leaves}
    after = {leaf.path: leaf for leaf in new.leaves}

    def text(leaf: LeafInfo) -> str:
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    changes = [
        f"{path} was {text(before[path])}, is {text(leaf)}"
        for path, leaf in after.items()
        if path in before and text(before[path]) != text(leaf)
    ]
    changes += [f"{path} is new" for path in after if path not in before]
    changes += [f"{path} is gone" for path in before if path not in after]
    if not changes:
        return "the arguments' types changed"
    return "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")


@overload
def autoshard(fn: Callable[..., Any], /, **options: Any) -> Autosharded: ...
@overload
def autoshard(**options: Any) -> Callable[[Callable[..., Any]], Autosharded]: ...
def autoshard(
    fn: Callable[..., Any] | None = None, /, **options: Any
) -> Autosharded | Callable[[Callable[..., Any]], Autosharded]:
    """Shard a train step automatically; like `jax.jit`, bare or with options.

    See `autoshard.options.Options` for every option.

    Raises:
        TypeError: an option is not known.
    """
    chosen = _options(options)
    if fn is not None:
        return Autosharded(fn, chosen)
    return lambda f: Autosharded(f, chosen)


def plan(fn: Callable[..., Any], *abstract_args: Any, on: Any = None, **options: Any) -> Plan:
    """Plan a function for a machine; no devices are needed.

    Args:
        fn: a step, decorated or not.
        *abstract_args: its arguments: arrays or `jax.ShapeDtypeStruct`s.
        on: a machine such as "v5e:4x4" or "8xh100", a list of devices, or None for all devices.
        **options: as for `@autoshard`.
    """
    return _decorated(fn, on, options).plan_for(*abstract_args)


def verify(
    fn: Callable[..., Any],
    *abstract_args: Any,
    on: Any = None,
    tolerance: float = 0.1,
    **options: Any,
) -> Comparison:
    """Plan a function and compare the plan with what the machine's compiler makes of it.

    Args:
        fn: a step, decorated or not.
        *abstract_args: its arguments: arrays or `jax.ShapeDtypeStruct`s.
        on: a machine such as "v5e:2x4", "8xh100" or "cpu:8"; its compiler must be installed.
        tolerance: see `Comparison.agrees`.
        **options: as for `@autoshard`.
    """
    return _decorated(fn, on, options).verify(*abstract_args, tolerance=tolerance)


def _decorated(fn: Callable[..., Any], on: Any, options: dict[str, Any]) -> Autosharded:
    if on is not None:
        options = {**options, "devices": on}
    if isinstance(fn, Autosharded):
        return Autosharded(fn._fn, replace(fn._options, **options))
    return Autosharded(fn, _options(options))


def _options(options: dict[str, Any]) -> Options:
    known = [f.name for f in fields(Options)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"autoshard has no option {unknown[0]!r}; it has {', '.join(known)}")
    return Options(**options)
