"""A plan's constraints put back into the program: the jaxpr re-evaluated with them in place.

Walks equations exactly as `autoshard.trace.walk` does, so that keys agree. Every equation is
bound under its own source line and name stack: errors and profiles still speak of user code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from autoshard import _compat
from autoshard.execute.sending import sends_whole, sent_in_parts
from autoshard.execute.shardings import Imposed
from autoshard.rules.indexing import SCATTERS
from autoshard.trace.surgery import value_of

Table = Mapping[tuple[str, str], Imposed]


class Replay:
    """Evaluates a jaxpr with constraints.

    Args:
        table: (at, slot) -> what to impose there.
        mesh: that the plan is for.
    """

    def __init__(self, table: Table, mesh: jax.sharding.Mesh) -> None:
        self.table, self.mesh = table, mesh
        self.used: set[tuple[str, str]] = set()
        # (id of a value, what is made of it) -> the value, held so that its id stays its own, and
        # what was made.
        self._made: dict[tuple[int, Any], tuple[Any, Any]] = {}
        # In code for one shard: the mesh's axes that its author leaves to the plan.
        self._left: frozenset[str] = frozenset()

    def _constrain(self, value: Any, at: str, slot: str) -> Any:
        imposed = self.table.get((at, slot))
        if imposed is None:
            return value
        self.used.add((at, slot))
        if imposed.again:
            value = self._as_another(value, imposed.again)
        wide = value
        if imposed.sent_as:
            value = self._once(value, imposed.sent_as, lambda v: v.astype(imposed.sent_as))
        for sharding in imposed.shardings:
            value = self._laid_out(value, sharding)
        if imposed.sent_as:
            value = value.astype(wide.dtype)
        if imposed.by_rows:
            value = _compat.lie_by_rows(value)
            sharding = _compat.inside_manual(imposed.shardings[-1])
            value = jax.lax.with_sharding_constraint(value, sharding)
        return value

    def _laid_out(self, value: Any, sharding: Any) -> Any:
        """The value constrained, once for all who want it so: XLA finds not all that are equal."""
        sharding = _compat.inside_manual(sharding)
        return self._once(value, sharding, lambda v: jax.lax.with_sharding_constraint(v, sharding))

    def _as_another(self, value: Any, again: int) -> Any:
        """The value behind a barrier: XLA would join what is done to it with what was before."""
        return self._once(value, again, jax.lax.optimization_barrier)

    def _once(self, value: Any, what: Any, make: Callable[[Any], Any]) -> Any:
        """What is made of a value, the same for all who ask for it."""
        key = (id(value), what)
        if key not in self._made:
            self._made[key] = (value, make(value))
        return self._made[key][1]

    def _all(self, values: Sequence[Any], at: str, slot: str) -> list[Any]:
        return [self._constrain(v, at, f"{slot} {k}") for k, v in enumerate(values)]

    def run(
        self, jaxpr: _compat.Jaxpr, consts: Sequence[Any], args: Sequence[Any], prefix: str = ""
    ) -> list[Any]:
        """Evaluate `jaxpr` on concrete or traced values."""
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        for index, eqn in enumerate(jaxpr.eqns):
            at = f"{prefix}{index}"
            with _compat.as_if_traced_at(eqn):
                values = self._all([value_of(v, env) for v in eqn.invars], at, "operand")
                outs = self._all(self._eqn(eqn, values, at), at, "result")
            env.update(zip(eqn.outvars, outs, strict=True))
        return [value_of(v, env) for v in jaxpr.outvars]

    def _eqn(self, eqn: _compat.JaxprEqn, values: list[Any], at: str) -> list[Any]:
        name = eqn.primitive.name
        inlined = _compat.inlined_body(eqn)
        if inlined is not None:
            jaxpr, consts, operands = inlined
            return self.run(jaxpr, consts, [values[k] for k in operands], f"{at}/")
        if name in _compat.CONSTRAINTS and _compat.constrained_dims(eqn) is not None:
            # The plan keeps what the user said, and says it on the mesh that was chosen.
            return values
        if name == "shard_map":
            return self._manual(eqn, values, at)
        result = self.table.get((at, "result 0"))
        if self._left and result is not None and sends_whole(eqn):
            return sent_in_parts(eqn, values, result.shardings[-1].spec, self._left)
        values, params = _compat.with_bodies(
            eqn, values, eqn.params, lambda body, which: self._body(body, at + which)
        )
        if name in SCATTERS and math.prod(_compat.shape_of(eqn.invars[1])[:-1]) <= self.mesh.size:
            values = [self._sliced_before(values[0], at), *values[1:]]
        return _compat.bind(eqn, values, params)

    def _manual(self, eqn: _compat.JaxprEqn, values: list[Any], at: str) -> list[Any]:
        """Code that its author lays out; on the plan's mesh where that is the author's."""
        params, sizes_of = dict(eqn.params), _compat.sizes_of
        if sizes_of(params["mesh"]) == sizes_of(self.mesh):
            params["mesh"] = self.mesh  # but for the order of its devices
            if _compat.leaves_axes(eqn):
                return self._stages(eqn, values, at)
        return _compat.bind(eqn, values, params)

    def _stages(self, eqn: _compat.JaxprEqn, values: list[Any], at: str) -> list[Any]:
        """The same, of which some axes are the plan's."""
        manual = _compat.manual_axes(eqn)
        around, self._left = self._left, frozenset(self.mesh.axis_names) - set(manual)
        try:
            return list(
                _compat.shard_map(
                    self._inside(eqn.params["jaxpr"], at),
                    self.mesh,
                    in_specs=tuple(eqn.params["in_specs"]),
                    out_specs=list(eqn.params["out_specs"]),
                    manual=manual,
                )(*values)
            )
        finally:
            self._left = around

    def _sliced_before(self, array: Any, at: str) -> Any:
        """What a scatter writes to, behind a barrier.

        A scatter to one place becomes a dynamic slice and its update, of which a shard that does
        not hold the place makes nothing by clamping; but XLA adds the place to that of a slice
        that made the shard, and clamps no more (jaxlib 0.10.2). It takes one place per shard, and
        there may be no more where there are fewer places than devices.
        """
        imposed = self.table.get((at, "operand 0"))
        apart = jax.lax.optimization_barrier(array)
        return apart if imposed is None else self._laid_out(apart, imposed.shardings[-1])

    def _body(self, body: Any, at: str) -> _compat.ClosedJaxpr:
        avals = [v.aval for v in _compat.open_body(body)[0].invars]
        return _compat.retrace(self._inside(body, at), avals)

    def _inside(self, body: Any, at: str) -> Callable[..., list[Any]]:
        """A body as a function, with its constraints."""
        jaxpr, consts = _compat.open_body(body)

        def run(*args: Any) -> list[Any]:
            results = self.run(jaxpr, consts, self._all(args, at, "in"), f"{at}/")
            return self._all(results, at, "out")

        return run
