"""Programs written for explicit-sharding meshes, as programs for one device with constraints.

Under a mesh of explicit axes every type says how its value lies, and ops check it. A plan decides
that anew, so types lose it; what the user asks for (`reshard`, `out_sharding=`) stays, as the
constraint it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from autoshard import _compat

_SHARDINGS = ("out_sharding", "sharding")


def without_explicit_types(closed: _compat.ClosedJaxpr) -> _compat.ClosedJaxpr:
    """The program with types that say nothing of layouts; itself where none does."""
    if not any(map(_compat.is_explicit, _values(closed.jaxpr))):
        return closed
    mesh = _compat.explicit_mesh()
    if mesh is None:
        return closed

    def run(*args: Any) -> list[Any]:
        return _run(closed.jaxpr, closed.consts, args, mesh)

    with _compat.no_context_mesh():
        return _compat.retrace(run, [_compat.plain_aval(v.aval) for v in closed.jaxpr.invars])


def _values(jaxpr: _compat.Jaxpr) -> list[Any]:
    inner = (v for eqn in _compat.all_equations(jaxpr) for v in eqn.outvars)
    return [*jaxpr.invars, *inner]


def _run(jaxpr: _compat.Jaxpr, consts: Sequence[Any], args: Sequence[Any], mesh: Any) -> list[Any]:
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, _compat.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        with _compat.at_line_of(eqn):
            outs = _equation(eqn, [read(v) for v in eqn.invars], mesh)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: _compat.JaxprEqn, values: list[Any], mesh: Any) -> list[Any]:
    inlined = _compat.inlined_body(eqn)
    if inlined is not None:
        jaxpr, consts, operands = inlined
        return _run(jaxpr, consts, [values[k] for k in operands], mesh)
    name = eqn.primitive.name
    if name in _compat.CONSTRAINTS:
        return [_constrained(values[0], eqn.params[_compat.CONSTRAINTS[name]], mesh)]
    wanted = [s for key in _SHARDINGS if isinstance(s := eqn.params.get(key), NamedSharding)]
    values, params = _compat.with_bodies(eqn, values, eqn.params, lambda body, _: _body(body, mesh))
    params.update({key: None for key in _SHARDINGS if key in params})
    if name == "shard_map":
        params["mesh"] = _compat.automatic(mesh)
    outs = _compat.bind(eqn, values, params)
    return [_constrained(outs[0], wanted[0], mesh), *outs[1:]] if wanted else outs


def _body(body: Any, mesh: Any) -> _compat.ClosedJaxpr:
    jaxpr, consts = _compat.open_body(body)
    return _compat.retrace(
        lambda *args: _run(jaxpr, consts, args, mesh),
        [_compat.plain_aval(v.aval) for v in jaxpr.invars],
    )


def _constrained(value: Any, sharding: Any, mesh: jax.sharding.Mesh) -> Any:
    if not isinstance(sharding, NamedSharding):
        return value
    said = NamedSharding(_compat.automatic(mesh), sharding.spec)
    return jax.lax.with_sharding_constraint(value, said)
