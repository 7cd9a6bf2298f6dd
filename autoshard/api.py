"""The decorator and `plan()`: everything a user calls."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import jax

from autoshard import _compat
from autoshard.execute.initialise import initialise
from autoshard.execute.program import Executable, OtherSignature, executable, say_moved
from autoshard.execute.shardings import jax_mesh
from autoshard.options import Options
from autoshard.plan.model import Plan
from autoshard.planning import machine_of, make_plan
from autoshard.report.progress import Progress
from autoshard.trace.calls import Calls, Layout
from autoshard.trace.function import LeafInfo, Signature, Traced, signature, trace
from autoshard.trace.nnx import Modules, holds_modules, put_back, take_apart
from autoshard.verify import cache
from autoshard.verify.compare import Comparison, compare
from autoshard.verify.devices import compiler_devices
from autoshard.verify.witness import compile_plan


@dataclass(frozen=True)
class _Call:
    """One call, ready for tracing: flat dynamic values, their names, and how to run them."""

    layout: Layout
    values: tuple[Any, ...]
    names: tuple[str, ...]
    donated: frozenset[int]
    modules: Modules | None
    pure: Callable[..., Any]


class Autosharded:
    """A function under `@autoshard`; call it as the function itself."""

    __name__: str

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self._fn, self._options = fn, options
        self._calls = Calls(fn, options)
        self._entries: dict[Any, dict[Any, Executable]] = {}
        self._planned: dict[Any, tuple[Traced, Plan]] = {}
        self._last: Executable | None = None
        self._last_plan: Plan | None = None
        self._fast: dict[Layout, Executable] = {}
        functools.update_wrapper(self, fn)

    # -- calling -----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compat.is_tracing():
            # Inside another transformation the function is what it was.
            return self._fn(*args, **kwargs)
        layout, dynamic = self._calls.split(args, kwargs)
        run = self._fast.get(layout)
        if run is not None:
            try:
                return run.jitted(*dynamic)
            except OtherSignature:
                pass
            except (TypeError, ValueError):
                # JAX refuses arguments placed or shaped otherwise before anything has run;
                # the slow path finds out which, and raises again what it can't explain.
                pass
        return self._slow(layout, dynamic)

    def _slow(self, layout: Layout, dynamic: tuple[Any, ...]) -> Any:
        call = self._prepare(layout, dynamic)
        sig = signature(call.values, call.names)
        run = self._executable(call, sig)
        placed, moved = run.place(call.values)
        if moved:
            say_moved(self.__name__, moved, run.plan)
        if call.modules is None:
            out = run.jitted(*placed)
            self._fast[layout] = run
            return out
        state, out = run.jitted(*placed)
        put_back(call.modules, dynamic, state)
        return out

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

    def _executable(self, call: _Call, sig: Signature) -> Executable:
        kind = (call.layout, call.modules.graph if call.modules else None)
        entries = self._entries.setdefault(kind, {})
        key = sig.key
        if key in entries:
            run = entries[key]
        else:
            if entries:
                previous = next(reversed(entries.values()))
                self._explain_replan(previous.traced.signature, sig)
            with Progress() as progress:
                traced, plan = self._plan(call, sig, progress)
                progress.phase("compiling")
                mesh = jax_mesh(plan.mesh, self._devices(plan))
                run = executable(traced, plan, mesh, call.donated)
                entries[key] = run
                if not isinstance(self._options.devices, str):
                    # Compile under the progress line; the call itself then finds it in the cache.
                    placed, _ = run.place(call.values)
                    del placed
        self._last, self._last_plan = run, run.plan
        return run

    def _plan(self, call: _Call, sig: Signature, progress: Progress) -> tuple[Traced, Plan]:
        kind = (call.layout, call.modules.graph if call.modules else None, sig.key)
        if kind not in self._planned:
            progress.phase("tracing")
            traced = trace(call.pure, sig, name=self.__name__, donated=call.donated)
            progress.phase("searching")
            plan = make_plan(traced, self._options, progress.update)
            self._planned[kind] = (traced, plan)
        traced, plan = self._planned[kind]
        self._last_plan = plan
        return traced, plan

    def _devices(self, plan: Plan) -> Sequence[Any]:
        devices = self._options.devices
        if isinstance(devices, str):
            return compiler_devices(machine_of(devices))
        if devices is None and isinstance(self._options.mesh, jax.sharding.Mesh):
            return list(self._options.mesh.devices.flat)
        return jax.devices() if devices is None else list(devices)

    def _explain_replan(self, old: Signature, new: Signature) -> None:
        warnings.warn(f"{self.__name__}: planning again: {difference(old, new)}", stacklevel=5)

    # -- looking -----------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """The plan in use.

        Raises:
            RuntimeError: nothing was planned yet.
        """
        if self._last_plan is None:
            raise RuntimeError(
                f"{self.__name__} has no plan yet: call it, or use"
                f" {self.__name__}.plan_for(*abstract_args)"
            )
        return self._last_plan

    def plan_for(self, *args: Any, **kwargs: Any) -> Plan:
        """Plan for these arguments (arrays or `jax.ShapeDtypeStruct`s) without running."""
        call = self._prepare(*self._calls.split(args, kwargs))
        with Progress() as progress:
            return self._plan(call, signature(call.values, call.names), progress)[1]

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(f).lower`: `.compile()`, `.as_text()`, ..., with the plan applied."""
        call = self._prepare(*self._calls.split(args, kwargs))
        sig = signature(call.values, call.names)
        run = self._executable(call, sig)
        structs = jax.tree_util.tree_unflatten(sig.in_tree, sig.structs)
        return run.jitted.lower(*structs)

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
            traced, plan = self._plan(call, signature(call.values, call.names), progress)
            file = cache.place(plan, call.donated)
            witness = cache.load(file) if remember else None
            if witness is None:
                progress.phase(f"compiling for {plan.machine.name}")
                devices = self._devices(plan)
                run = executable(traced, plan, jax_mesh(plan.mesh, devices), call.donated)
                platform = machine_of(self._options.devices).chip.platform
                witness = compile_plan(run, platform, progress.update)
                cache.store(file, witness)
        return compare(plan, witness, tolerance)

    def init(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn(*args)` compiled, with its result placed as the plan wants the state.

        No device ever holds more than its own part of the result. Before the first plan there
        is no layout to follow: leaves are then split evenly over all devices, and moved once by
        the first call of the step; `plan_for(...)` beforehand avoids that.
        """
        plan, devices = self._last_plan, self._options.devices
        if isinstance(devices, str):
            raise ValueError(f"devices={devices!r} is a description; nothing can run on it")
        if plan is not None:
            devices = self._devices(plan)
        return initialise(fn, args, kwargs, plan, devices)


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
