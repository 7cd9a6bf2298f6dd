"""Primitives of other packages that are JAX code all the same, as that code.

What has no rule may still be lowered by a function written in JAX (`mlir.lower_fun`): every
primitive of Equinox and Lineax is, under `vmap` too. The program then holds that function in its
place, and rules for what it is made of do the rest. What is lowered in any other way, differently
on other platforms, or with effects, stays as it is.
"""

from __future__ import annotations

from typing import Any

import jax

from autoshard import _compat
from autoshard.rules.registry import known_kinds
from autoshard.rules.unruled import UNRULED


def unfolded(closed: _compat.ClosedJaxpr) -> _compat.ClosedJaxpr:
    """The program with such equations replaced by calls of their functions, in bodies too."""
    ruled = known_kinds() | UNRULED.keys() | _compat.INLINE_BODIES.keys()
    return _compat.ClosedJaxpr(_unfolded(closed.jaxpr, ruled), closed.consts)


def _unfolded(jaxpr: _compat.Jaxpr, ruled: frozenset[str]) -> _compat.Jaxpr:
    eqns = [_equation(eqn, ruled) for eqn in jaxpr.eqns]
    if all(new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)):
        return jaxpr
    return _compat.new_jaxpr(jaxpr, jaxpr.constvars, jaxpr.invars, jaxpr.outvars, eqns)


def _equation(eqn: _compat.JaxprEqn, ruled: frozenset[str]) -> _compat.JaxprEqn:
    body = None if eqn.primitive.name in ruled else _compat.lowered_body(eqn)
    if body is not None:
        return _compat.called(eqn, _body(body, ruled))
    if not _compat.has_bodies(eqn):
        return eqn
    params = {name: _parameter(value, ruled) for name, value in eqn.params.items()}
    if all(params[name] is value for name, value in eqn.params.items()):
        return eqn
    walked: _compat.JaxprEqn = eqn.replace(params=params)
    return walked


def _parameter(value: Any, ruled: frozenset[str]) -> Any:
    """A parameter with the bodies in it unfolded; itself where nothing in it is."""
    if isinstance(value, tuple):
        new = jax.tree.map(lambda v: _body(v, ruled), value)  # some are named
        return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return _body(value, ruled)


def _body(value: Any, ruled: frozenset[str]) -> Any:
    if isinstance(value, _compat.ClosedJaxpr):
        jaxpr = _unfolded(value.jaxpr, ruled)
        return value if jaxpr is value.jaxpr else _compat.ClosedJaxpr(jaxpr, value.consts)
    return _unfolded(value, ruled) if isinstance(value, _compat.Jaxpr) else value
