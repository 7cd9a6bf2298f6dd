"""Every moving or private JAX name the project uses, in one file.

When a JAX release moves something, this is the file that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from typing import Any

import jax
import numpy as np
from jax._src import core as _core
from jax._src import mesh as _mesh
from jax._src import source_info_util as _source_info
from jax._src.interpreters import mlir as _mlir
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.interpreters import pxla as _pxla
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend import core as _excore

_flattree: Any = None
with suppress(ImportError):  # before 0.11
    _flattree = import_module("jax._src.flattree")

Jaxpr = _excore.Jaxpr
ClosedJaxpr = _excore.ClosedJaxpr
JaxprEqn = _excore.JaxprEqn
Var = _excore.Var
Literal = _excore.Literal

# Primitives whose body runs exactly once where they stand: name -> parameter holding the body.
INLINE_BODIES = {
    "composite": "jaxpr",
    "custom_vmap_call": "call",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
REMAT_BODIES = {"remat2": "jaxpr", "remat": "jaxpr", "checkpoint": "jaxpr"}


def open_body(body: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A sub-jaxpr parameter as (jaxpr, consts), whether it is closed or open."""
    if isinstance(body, ClosedJaxpr):
        return body.jaxpr, body.consts
    return body, ()


def inlined_body(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any], tuple[int, ...]] | None:
    """The body that an equation runs exactly once and that can stand in its place.

    Derivatives and batching have been taken when a step is traced, so rules for them don't matter
    any more, and a linear solve is what its solver does.

    Returns:
        The body, its constants, and which operands of the equation it takes; None without one.
    """
    name = eqn.primitive.name
    if name == "custom_linear_solve":
        lengths = eqn.params["const_lengths"]
        before, own = lengths.matvec + lengths.vecmat, lengths.solve
        after = before + own + lengths.transpose_solve
        operands = (*range(before, before + own), *range(after, len(eqn.invars)))
        return *open_body(eqn.params["jaxprs"].solve), operands
    body = eqn.params.get(INLINE_BODIES.get(name, ""))
    if body is None:
        return None
    return *open_body(body), tuple(range(len(eqn.invars)))


_WALKED = frozenset({"scan", "while", "cond", "custom_linear_solve"})


def has_bodies(eqn: JaxprEqn) -> bool:
    """Whether walking an equation walks bodies among its parameters."""
    name = eqn.primitive.name
    return name in _WALKED or name in REMAT_BODIES or name in INLINE_BODIES


# What `lower_fun` returns is a closure; that it is one, its code tells.
_LOWER_FUN = _mlir.lower_fun(lambda: ()).__code__


def lowered_body(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The JAX code that a primitive is lowered by on all platforms, traced at an equation.

    Its equations have the line of this one.

    Returns:
        None where it is lowered in another way, where the code cannot be traced here, and where
        its results or effects are other ones than the equation says.
    """
    primitive, lowerings = eqn.primitive, _mlir._platform_specific_lowerings
    if any(primitive in rules for rules in lowerings.values()):
        return None
    lowering: Any = getattr(_mlir._lowerings.get(primitive), "rule", None)
    if getattr(lowering, "__code__", None) is not _LOWER_FUN:
        return None
    free = zip(_LOWER_FUN.co_freevars, lowering.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in free}
    if "fun" not in held:
        return None

    def run(*values: Any) -> Any:
        return [_strong(x) for x in jax.tree.leaves(held["fun"](*values, **eqn.params))]

    try:
        with as_if_traced_at(eqn):
            body = retrace(run, [v.aval for v in eqn.invars])
    except Exception:  # somebody else's code, which the compiler calls under other conditions
        return None
    same = list(map(_type, body.jaxpr.outvars)) == list(map(_type, eqn.outvars))
    return body if same and body.effects == eqn.effects else None


def _strong(value: Any) -> Any:
    """A value whose type is that of a Python number, as the array that a primitive returns."""
    if not getattr(jax.typeof(value), "weak_type", False):
        return value
    return jax.lax.convert_element_type(value, jax.typeof(value).dtype)


def _type(value: Any) -> tuple[Any, ...]:
    aval = value.aval
    return aval.shape, aval.dtype, getattr(aval, "weak_type", False)


def called(eqn: JaxprEqn, body: ClosedJaxpr) -> JaxprEqn:
    """A call of `body` in place of an equation."""
    call: JaxprEqn = eqn.replace(primitive=_core.closed_call_p, params={"call_jaxpr": body})
    return call


# Primitives by which a user says a layout: name -> parameter holding the sharding.
CONSTRAINTS = {"sharding_constraint": "sharding", "reshard": "dst_sharding"}


def constrained_dims(
    eqn: JaxprEqn,
) -> tuple[tuple[tuple[str, ...] | None, ...], dict[str, int]] | None:
    """What a user's own constraint says: the axes of every dimension, and its mesh's axis sizes.

    Returns:
        None where it names no mesh, or is no `NamedSharding`. A dimension left open is None.
    """
    sharding = eqn.params[CONSTRAINTS[eqn.primitive.name]]
    if not isinstance(sharding, jax.sharding.NamedSharding) or sharding.mesh.empty:
        return None
    rank = len(getattr(eqn.outvars[0].aval, "shape", ()))
    entries = (*sharding.spec, *(None,) * (rank - len(sharding.spec)))
    open_dims = eqn.params.get("unconstrained_dims") or ()
    dims: list[tuple[str, ...] | None] = []
    for d, entry in enumerate(entries):
        if d in open_dims or entry is jax.sharding.PartitionSpec.UNCONSTRAINED:
            dims.append(None)
        else:
            dims.append(() if entry is None else (entry,) if isinstance(entry, str) else entry)
    return tuple(dims), sizes_of(sharding.mesh)


def without_dead_code(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Drop equations whose results nobody reads; inputs and effects stay."""
    n_out = len(closed.jaxpr.outvars)
    jaxpr, _ = _partial_eval.dce_jaxpr(closed.jaxpr, [True] * n_out, instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


_REFERENCES = frozenset({"empty_ref", "new_ref", "ref"})


def without_references(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program with arrays that it makes mutable inside (`jax.new_ref`) turned into values."""
    if not any(eqn.primitive.name in _REFERENCES for eqn in all_equations(closed.jaxpr)):
        return closed
    discharged: ClosedJaxpr = _pxla._discharge_internal_refs(closed)
    return discharged


def all_equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Equations, with those of the bodies inside them."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for body in value if isinstance(value, tuple) else (value,):
                if isinstance(body, Jaxpr | ClosedJaxpr):
                    yield from all_equations(open_body(body)[0])


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal."""
    return tuple(atom.aval.shape)


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or literal."""
    return atom.aval.dtype


def new_var(aval: Any) -> Var:
    """A variable that no jaxpr has yet."""
    return _excore.Var(aval)


def stacked_aval(aval: Any, length: int) -> Any:
    """The type of `length` values of a type, stacked in front."""
    return aval.update(shape=(length, *aval.shape))


def new_jaxpr(
    like: Jaxpr,
    constvars: Sequence[Var],
    invars: Sequence[Var],
    outvars: Sequence[Any],
    eqns: Sequence[JaxprEqn],
) -> Jaxpr:
    """A jaxpr in place of another one, whose arguments and results may be other ones."""
    effects = _core.join_effects(*(eqn.effects for eqn in eqns))
    # Names belong to the arguments that were; wrong ones are worse than none.
    same = len(invars) == len(like.invars) and len(outvars) == len(like.outvars)
    info = like.debug_info if same else like.debug_info.with_unknown_names()
    return Jaxpr(list(constvars), list(invars), list(outvars), list(eqns), effects, debug_info=info)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands a `scan` hands to every trip, and how many it carries."""
    if "num_consts" in params:  # up to 0.10; then trees of operands
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def scan_params(
    params: Mapping[str, Any], body: ClosedJaxpr, num_consts: int, num_carry: int | None = None
) -> dict[str, Any]:
    """Parameters of a `scan` whose body takes other operands; by default, as many carried."""
    changed = {**params, "jaxpr": body}
    carry = scan_counts(params)[1] if num_carry is None else num_carry
    if "ft_in" in params:
        sides = {"ft_in": (num_consts, carry), "ft_out": (carry,)}
        lengths = {"ft_in": len(body.jaxpr.invars), "ft_out": len(body.jaxpr.outvars)}
        for side, first in sides.items():
            counts = (*first, lengths[side] - sum(first))
            changed[side] = _flattree.pack(tuple(map(_flattree.nones, counts)))
        return changed
    changed |= {"num_consts": num_consts, "num_carry": carry}
    if "linear" in params:  # one bit an operand up to 0.9, a hint
        changed["linear"] = (False,) * len(body.jaxpr.invars)
    return changed


def under(eqn: JaxprEqn, outer: JaxprEqn, keep_line: bool) -> Any:
    """The source info of an equation once the body it stands in is spliced in place of `outer`.

    Args:
        eqn: in the body.
        outer: around it.
        keep_line: whether the equation speaks of its own line, or of that of `outer`.
    """
    stack = outer.source_info.name_stack + eqn.source_info.name_stack
    info = eqn.source_info if keep_line else outer.source_info
    return info.replace(name_stack=stack)


def is_tracing() -> bool:
    """Whether we are inside some JAX transformation (`jit`, `grad`, `vmap`, ...)."""
    return not _core.trace_state_clean()


def user_frames(eqn: JaxprEqn) -> Iterator[tuple[str, int]]:
    """(file, line) of the frames that led to an equation, innermost first, JAX's own left out."""
    for frame in _source_info.user_frames(eqn.source_info.traceback):
        yield frame.file_name, frame.start_line


def name_stack(eqn: JaxprEqn) -> str:
    return str(eqn.source_info.name_stack)


@contextmanager
def at_line_of(eqn: JaxprEqn) -> Iterator[None]:
    """Bind primitives under an equation's own source line and name stack."""
    stack = _source_info.current_name_stack() + eqn.source_info.name_stack
    with _source_info.user_context(eqn.source_info.traceback, name_stack=stack):
        yield


@contextmanager
def as_if_traced_at(eqn: JaxprEqn) -> Iterator[None]:
    """Bind primitives under an equation's own source line, name stack and context.

    Inside a `shard_map` the mesh of the context is the one that it runs on, whichever it was traced
    on.
    """
    manager: AbstractContextManager[Any] = eqn.ctx.manager
    here = _mesh.get_abstract_mesh()
    with at_line_of(eqn), manager:
        if here.manual_axes:
            with _mesh.use_abstract_mesh(here):
                yield
        else:
            yield


def bind(eqn: JaxprEqn, values: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Evaluate one equation on `values` with `params` in place of its own.

    Inside a `shard_map`, on the mesh that it runs on.
    """
    if _mesh.get_abstract_mesh().manual_axes:
        params = {k: None if _is_of_a_type(v) else v for k, v in params.items()}
        # Types of literals know the mesh that they were traced on.
        values = [np.asarray(v) if type(v).__name__ == "TypedNdArray" else v for v in values]
    got = eqn.primitive.get_bind_params(params)
    # Older releases return (functions, params), newer ones params alone.
    funs, kwargs = got if isinstance(got, tuple) else ((), got)
    out = eqn.primitive.bind(*funs, *values, **kwargs)
    return list(out) if eqn.primitive.multiple_results else [out]


def _is_of_a_type(value: Any) -> bool:
    """Whether a parameter is a sharding that says nothing but the mesh that was traced on."""
    return isinstance(value, jax.sharding.NamedSharding) and isinstance(
        value.mesh, jax.sharding.AbstractMesh
    )


def with_bodies(
    eqn: JaxprEqn,
    values: Sequence[Any],
    params: dict[str, Any],
    body: Callable[[Any, str], ClosedJaxpr],
) -> tuple[list[Any], dict[str, Any]]:
    """Operands and parameters of control flow with other bodies; of any other equation, as given.

    Args:
        eqn: the equation.
        values: of its operands.
        params: its parameters, or what stands for them.
        body: a body, closed or open, and which it is ("", "/c", "/b", "/b0", ...) -> the new one.
    """
    name, params = eqn.primitive.name, dict(params)
    if name in REMAT_BODIES:
        params["jaxpr"], hoisted = without_consts(body(params["jaxpr"], ""))
        return [*hoisted, *values], params
    if name == "scan":
        params["jaxpr"] = body(params["jaxpr"], "")
    elif name == "while":
        params["cond_jaxpr"] = body(params["cond_jaxpr"], "/c")
        params["body_jaxpr"] = body(params["body_jaxpr"], "/b")
    elif name == "cond":
        branches = enumerate(params["branches"])
        params["branches"] = tuple(body(branch, f"/b{i}") for i, branch in branches)
    return list(values), params


def bodies_of(eqn: JaxprEqn) -> dict[str, Any]:
    """The bodies that `with_bodies` asks for, by which they are."""
    found: dict[str, Any] = {}

    def note(body: Any, which: str) -> ClosedJaxpr:
        found[which] = body
        return ClosedJaxpr(*open_body(body))

    with_bodies(eqn, (), eqn.params, note)
    return found


def lie_by_rows(value: Any) -> Any:
    """The value with its last dimension minor in memory, as arrays come and go by default."""
    return with_layout_constraint(value, Layout(tuple(range(value.ndim))))


def retrace(fun: Callable[..., Any], avals: Sequence[Any]) -> ClosedJaxpr:
    """Trace `fun` over flat avals; inside a `shard_map`, on the mesh that it runs on."""
    if _mesh.get_abstract_mesh().manual_axes:
        avals = [plain_aval(aval) for aval in avals]
    return jax.make_jaxpr(fun)(*avals)


def without_consts(closed: ClosedJaxpr) -> tuple[Jaxpr, list[Any]]:
    """An open jaxpr that takes its constants as leading arguments, and those constants."""
    return _partial_eval.convert_constvars_jaxpr(closed.jaxpr), list(closed.consts)


def abstract(value: Any) -> tuple[tuple[int, ...], Any, bool]:
    """(shape, dtype, weak_type) of an argument leaf: array, scalar, ShapeDtypeStruct.

    Raises:
        TypeError: the leaf is no array, number or abstract array.
    """
    if isinstance(value, jax.ShapeDtypeStruct):
        return tuple(value.shape), value.dtype, bool(getattr(value, "weak_type", False))
    aval = jax.typeof(value)
    return tuple(aval.shape), aval.dtype, bool(getattr(aval, "weak_type", False))


def struct(
    shape: tuple[int, ...], dtype: Any, weak_type: bool, sharding: Any = None
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, weak_type=weak_type, sharding=sharding)


def is_explicit(value: Any) -> bool:
    """Whether the type of a variable, array or abstract array says how the value lies."""
    aval = getattr(value, "aval", value)
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    return mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types


def explicit_sharding(value: Any) -> Any:
    """The sharding in the type of an argument leaf; None where types say none."""
    sharding = getattr(value, "sharding", None)
    if sharding is None or not isinstance(sharding, jax.sharding.NamedSharding):
        return None
    return sharding if is_explicit(value) else None


def plain_aval(aval: Any) -> Any:
    """The type without what it says of layouts."""
    if getattr(aval, "sharding", None) is None:
        return aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def sizes_of(mesh: Any) -> dict[str, int]:
    """The axes of a mesh, concrete or abstract, with their sizes."""
    return {str(name): int(size) for name, size in mesh.shape.items()}


def abstract_mesh(sizes: Mapping[str, int]) -> Any:
    """A mesh of no devices, whose axes the compiler lays out."""
    return jax.sharding.AbstractMesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
    )


def manual_axes(eqn: JaxprEqn) -> frozenset[str]:
    """The axes over which a `shard_map` is written; the others are the compiler's."""
    return frozenset(eqn.params.get("newly_manual_axes", eqn.params.get("manual_axes", ())))


def inside_manual(sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
    """A sharding as code in a `shard_map` says it; as it is outside of one.

    On another mesh than that of the context, JAX puts a `reshard` that leaves all open behind every
    constraint, and XLA lays out what that makes as it likes.
    """
    here = _mesh.get_abstract_mesh()
    return jax.sharding.NamedSharding(here, sharding.spec) if here.manual_axes else sharding


def leaves_axes(eqn: JaxprEqn) -> bool:
    """Whether a `shard_map` leaves some axes of its mesh to the compiler."""
    return manual_axes(eqn) < set(sizes_of(eqn.params["mesh"]))


def shard_map(
    fun: Callable[..., Any],
    mesh: Any,
    in_specs: Any,
    out_specs: Any,
    manual: Collection[str],
) -> Callable[..., Any]:
    """`jax.shard_map` over some axes of a mesh, for code that says nothing of what varies."""
    mapped: Callable[..., Any] = jax.shard_map(
        fun,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(manual),
        check_vma=False,
    )
    return mapped


def explicit_mesh() -> jax.sharding.Mesh | None:
    """The mesh that `jax.set_mesh` has set, where types are to say how values lie on it."""
    if is_tracing() or not has_context_mesh():
        return None
    mesh = jax.sharding.get_mesh()
    return mesh if jax.sharding.AxisType.Explicit in mesh.axis_types else None


def automatic(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The same devices under axes that the compiler lays out."""
    return jax.sharding.Mesh(mesh.devices, mesh.axis_names)


def has_context_mesh() -> bool:
    return bool(jax.sharding.get_abstract_mesh().axis_names)


@contextmanager
def no_context_mesh() -> Iterator[None]:
    """Nothing of `jax.set_mesh`: what runs in here lies on a mesh of ours."""
    if is_tracing() or not has_context_mesh():
        yield
        return
    with jax.set_mesh(_mesh.empty_concrete_mesh):
        yield
