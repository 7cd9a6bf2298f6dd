"""The decorator and `plan()`: everything a user calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from types import MethodType
from typing import Any, overload

import jax

from autoshard import _compat
from autoshard.copies import parts_of
from autoshard.errors import warn
from autoshard.execute.initialise import initialise
from autoshard.execute.leafwise import OtherSignature
from autoshard.execute.lowered import Lowered
from autoshard.execute.program import Executable, describe_move, executable
from autoshard.execute.shardings import in_machine_order, jax_mesh
from autoshard.options import Options
from autoshard.plan.model import LeafPlan, Plan, ProgramKey
from autoshard.planning import (
    given_plan,
    machine_of,
    make_plan,
    program_key,
    runs_here,
    uncollected,
)
from autoshard.report.progress import Progress
from autoshard.trace.calls import Calls, Layout
from autoshard.trace.function import Traced, trace
from autoshard.trace.nnx import Modules, PureCall, holds_modules, put_back, take_apart
from autoshard.trace.signature import Signature, key_of, signature
from autoshard.trace.variants import Variant, Variants
from autoshard.verify import cache
from autoshard.verify.compare import Comparison, compare
from autoshard.verify.devices import compiler_devices
from autoshard.verify.witness import compile_plan

# What JAX raises for arguments that are shaped or placed otherwise, before anything runs; and what
# classes of the user raise, which it fills with placeholders to say what is wrong.
_REFUSALS = (
    *(OtherSignature, TypeError, ValueError),
    *(AssertionError, AttributeError, LookupError),
)


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
    def kind(self) -> Hashable:
        """What must agree, beside the signature, for two calls to share a program."""
        if self.modules is None:
            return self.layout
        graph = self.modules.graph
        try:
            hash(graph)
        except TypeError:  # a static attribute that has no hash, such as a list (Flax up to 0.12.6)
            graph = repr(graph)
        return self.layout, graph

    @property
    def graph_after(self) -> Any:
        """The modules' static part after the call; known once it was traced."""
        assert isinstance(self.pure, PureCall)
        return self.pure.graph_after

    def signature(self) -> Signature:
        return signature(self.values, self.names)


@dataclass
class _Entry:
    """What is known for one signature.

    Attributes:
        call: the first such call, without its values.
        variants: what it does, in all its forms.
        plan: how, and in which form.
        devices: where; asked only when something is to be run or compiled.
        compiled: whether it ran before.
    """

    call: _Call
    variants: Variants
    plan: Plan
    devices: Callable[[], Sequence[Any]]
    compiled: bool = False

    @property
    def traced(self) -> Traced:
        """What it does, as written."""
        return self.variants.plain

    @functools.cached_property
    def run(self) -> Executable:
        plan, mesh = self.plan, jax_mesh(self.plan.mesh, self.devices())
        form = self.variants.of(Variant(plan.microbatches, plan.remat, plan.pipeline))
        return executable(form, plan, mesh, self.call.donated)

    def difference(self, call: _Call, sig: Signature) -> str:
        """Why a call is not this one, in a phrase; "" where its static arguments say it."""
        if self.call.layout.statics != call.layout.statics:
            return ""
        return self.traced.signature.difference(sig) or (
            "the structure or a static attribute of an NNX module changed"
            if self.call.layout == call.layout and call.modules is not None
            else "the arguments are passed otherwise"
        )


class Autosharded:
    """A function under `@autoshard`; call it as the function itself.

    Calls go straight to the compiled program, and JAX's own dispatch checks that it is the right
    one. What JAX refuses is looked at leaf by leaf: planned and compiled if it is new, moved if it
    is placed otherwise.
    """

    __name__: str

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        self._fn, self._options = fn, options
        self._calls = Calls(fn, options)
        self._entries: dict[Hashable, dict[Any, _Entry]] = {}
        self._plans: dict[ProgramKey, Plan] = {}
        self._last: _Entry | None = None
        self._called: _Entry | None = None
        # By kind of call: the entry to try first, unless trying is what would fail.
        self._first: dict[Hashable, _Entry] = {}
        self._varied: set[Hashable] = set()
        self._said: set[str] = set()
        functools.update_wrapper(self, fn)
        self.__name__ = self._calls.name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Decorated methods are bound as others are; their `self` is an argument like any."""
        return self if instance is None else MethodType(self, instance)

    # -- calling -----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compat.is_tracing():
            # Inside another transformation the function is what it was.
            return self._fn(*args, **kwargs)
        layout, dynamic = self._calls.split(args, kwargs)
        first, refusal = self._first.get(layout), None
        if first is not None:
            try:
                return first.run(*dynamic)
            except _REFUSALS as error:
                refusal = error
        call = self._prepare(layout, dynamic)
        if call.modules is None:
            return self._run(call, first, refusal)[0]
        (arrays, out), entry = self._run_modules(call)
        put_back(call.modules, dynamic, arrays, entry.call.graph_after)
        return out

    def _run_modules(self, call: _Call) -> tuple[Any, _Entry]:
        first = self._first.get(call.kind)
        if first is None:
            return self._run(call, None, None)
        try:
            return first.run(*call.values), first
        except _REFUSALS as error:
            return self._run(call, first, error)

    def _run(
        self, call: _Call, tried: _Entry | None, refusal: Exception | None
    ) -> tuple[Any, _Entry]:
        """Plan, compile and move what has to be, and run.

        Args:
            call: what to run.
            tried: the entry that was tried first,
            refusal: and what JAX said to that.
        """
        if not runs_here(self._options.devices):
            raise ValueError(
                f"devices={self._options.devices!r} is a description; nothing can run on it. Use"
                f" {self.__name__}.plan_for(...) or {self.__name__}.lower(...).compile()"
            )
        with Progress() as progress:
            entry = self._entry(call, progress, called=True)
            values, moved = entry.run.place(call.values)
            shaped_otherwise = isinstance(refusal, OtherSignature)
            if refusal is not None and entry is tried and not (shaped_otherwise or moved):
                # Neither shapes nor places explain it: it is the user's to see, and the same
                # again if it were tried again.
                raise refusal
            self._say_moved(moved)
            if not entry.compiled:
                progress.phase("compiling")
            out = entry.run(*values)
        if refusal is not None and entry.compiled:
            self._varied.add(call.kind)
        if call.kind in self._varied:
            self._first.pop(call.kind, None)
        else:
            self._first[call.kind] = entry
        entry.compiled = True
        self._called = entry
        return out, entry

    def _say_moved(self, moved: Sequence[LeafPlan]) -> None:
        new = [leaf for leaf in moved if leaf.path not in self._said]
        if new:
            self._said.update(leaf.path for leaf in new)
            warn(describe_move(self.__name__, new))

    def _prepare(self, layout: Layout, dynamic: tuple[Any, ...]) -> _Call:
        names = tuple(self._calls.dynamic_names(layout))
        donated = self._calls.donated(layout)

        def call(*values: Any) -> Any:
            args, kwargs = layout.rebuild(values)
            return self._fn(*args, **kwargs)

        if not holds_modules(dynamic):
            return _Call(layout, dynamic, names, donated, None, call)
        modules, values = take_apart(dynamic, names)
        return _Call(layout, values, names, donated, modules, modules.pure(call))

    def _entry(self, call: _Call, progress: Progress, *, called: bool = False) -> _Entry:
        """The plan for a call's signature, made now if there is none."""
        entries = self._entries.setdefault(call.kind, {})
        key = key_of(call.values, call.names)
        if key not in entries:
            with uncollected():
                self._make(entries, key, call, progress, called=called)
        self._last = entries[key]
        return self._last

    def _make(
        self,
        entries: dict[Any, _Entry],
        key: Any,
        call: _Call,
        progress: Progress,
        *,
        called: bool,
    ) -> None:
        """Trace and plan a call that is new."""
        progress.phase("tracing")
        self._heed_context()
        sig = call.signature()
        traced = trace(call.pure, sig, name=self.__name__, donated=call.donated)
        variants = Variants(traced)
        program = program_key(traced.program)
        # The program is often the same, called otherwise: by keyword, or with an array where
        # a Python number was.
        if program not in self._plans:
            why = self._called.difference(call, sig) if called and self._called else ""
            if why:
                warn(f"{self.__name__}: planning again: {why}")
            progress.phase("searching")
            self._plans[program] = make_plan(variants, self._options, progress.update)
        call = replace(call, values=())
        made = self._plans[program]
        entry = _Entry(call, variants, made, functools.partial(self._devices_of, made))
        entries[key] = entries.setdefault(traced.signature.key, entry)

    def _heed_context(self) -> None:
        """Take the mesh that `jax.set_mesh` has set, if types are to say how values lie on it."""
        mesh = _compat.explicit_mesh()
        if mesh is not None and (self._options.mesh, self._options.devices) == ("auto", None):
            self._options = replace(self._options, mesh=_compat.automatic(mesh))

    def _devices(self) -> Sequence[Any]:
        devices, mesh = self._options.devices, self._options.mesh
        if isinstance(devices, str):
            here = runs_here(devices) and machine_of(devices).chip.platform != "cpu"
            return jax.devices() if here else compiler_devices(machine_of(devices))
        if devices is None and isinstance(mesh, jax.sharding.Mesh):
            return list(mesh.devices.flat)
        return jax.devices() if devices is None else list(devices)

    def _devices_of(self, plan: Plan | None) -> Sequence[Any]:
        """Where a plan is run: where it makes several copies, on the devices of the first."""
        if plan is None or plan.copies == 1:
            return self._devices()
        devices = self._options.devices
        if isinstance(devices, str) and not runs_here(devices):
            return compiler_devices(parts_of(plan, machine_of(devices)).machine)
        return self._part(plan, 0)

    def _part(self, plan: Plan, index: int) -> list[Any]:
        devices = self._options.devices
        where = parts_of(plan, machine_of(devices)).devices[index]
        whole = in_machine_order(self._devices())
        return [whole[i] for i in where]

    def copy(self, index: int) -> Autosharded:
        """One of the copies of a plan for throughput, a function of its own.

        It runs on the part of the machine that is its own, and keeps what it is given there. This
        function itself is copy 0.

        Args:
            index: from 0 to `plan.copies - 1`.

        Raises:
            IndexError: there is no such copy.
            RuntimeError: nothing was planned yet.
        """
        plan, devices = self.plan, self._options.devices
        if not 0 <= index < plan.copies:
            raise IndexError(f"{self.__name__} has copies 0 to {plan.copies - 1}, not {index}")
        if isinstance(devices, str) and not runs_here(devices):
            own: Any = parts_of(plan, machine_of(devices)).machine.name
        else:
            own = self._part(plan, index) if plan.copies > 1 else devices
        return Autosharded(self._fn, replace(self._options, devices=own, objective="latency"))

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
        return self._last.plan

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
        lowered = entry.run.lower()
        if not call.layout.keywords and call.modules is None:
            return lowered
        return Lowered(lowered, functools.partial(self._run_compiled, entry))

    def _run_compiled(self, entry: _Entry, compiled: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what `lower(...).compile()` gave: as the function, without its static arguments."""
        call = entry.call
        dynamic = (*args, *(kwargs[name] for name in call.layout.keywords))
        if call.modules is None:
            return compiled(*dynamic)
        modules, values = take_apart(dynamic, call.names)
        arrays, out = compiled(*values)
        put_back(modules, dynamic, arrays, call.graph_after)
        return out

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
                witness = compile_plan(entry.run, platform, progress.update)
                cache.store(file, witness)
        return compare(plan, witness, tolerance)

    def init(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn(*args)` compiled, with its result placed as the plan wants the state.

        No device ever holds more than its own part of the result. Before the first plan there
        is no layout to follow: leaves are then split evenly over all devices, and moved once by
        the first call of the step; `plan_for(...)` beforehand avoids that.
        """
        if not runs_here(self._options.devices):
            raise ValueError(
                f"devices={self._options.devices!r} is a description; nothing can run on it"
            )
        plan = self._last.plan if self._last is not None else given_plan(self._options)
        return initialise(fn, args, kwargs, plan, self._devices_of(plan))


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
