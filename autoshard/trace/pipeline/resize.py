"""A body traced for two sizes of the batch, run on a third.

Where two traces of one function differ in nothing but the size of the batch, what their equations
say of shapes can be said of any other size, one example among them: a trace of one example would
take other ways, since JAX broadcasts dimensions of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoshard import _compat
from autoshard.trace.batch import SHAPES
from autoshard.trace.surgery import value_of


@dataclass(frozen=True)
class Resize:
    """Equations for a part of the batch.

    Attributes:
        pieces: how many such parts the larger trace holds.
    """

    pieces: int

    def shape(self, big: Any, small: Any) -> tuple[int, ...]:
        """The shape of a variable or literal, as both traces have it."""
        return self._scaled(_compat.shape_of(big), _compat.shape_of(small))

    def _scaled(self, big: Sequence[int], small: Sequence[int]) -> tuple[int, ...]:
        pairs = zip(big, small, strict=True)
        return tuple(x if x == y else x // self.pieces for x, y in pairs)

    def bind(
        self, big: _compat.JaxprEqn, small: _compat.JaxprEqn, values: Sequence[Any]
    ) -> list[Any]:
        """Evaluate an equation.

        Args:
            big: of the larger trace.
            small: the same of the smaller, whose literals are right for any size.
            values: of its operands.
        """
        params = dict(small.params)
        for key in SHAPES & params.keys():
            one, other = big.params[key], small.params[key]
            if one != other:
                params[key] = self._scaled(one, other)
        bodies = _compat.bodies_of(big)
        values, params = _compat.with_bodies(
            small, values, params, lambda body, which: self._body(bodies[which], body)
        )
        name = _compat.INLINE_BODIES.get(small.primitive.name)
        if name in params:
            return self._run(big.params[name], small.params[name], values)
        return _compat.bind(small, values, params)

    def _body(self, big: Any, small: Any) -> _compat.ClosedJaxpr:
        one, other = _compat.open_body(big)[0], _compat.open_body(small)[0]
        avals = [
            y.aval.update(shape=self.shape(x, y))
            for x, y in zip(one.invars, other.invars, strict=True)
        ]
        return _compat.retrace(lambda *args: self._run(big, small, args), avals)

    def _run(self, big: Any, small: Any, args: Sequence[Any]) -> list[Any]:
        one, (other, consts) = _compat.open_body(big)[0], _compat.open_body(small)
        env = dict(zip(other.constvars, consts, strict=True))
        env.update(zip(other.invars, args, strict=True))

        for x, y in zip(one.eqns, other.eqns, strict=True):
            with _compat.as_if_traced_at(y):
                outs = self.bind(x, y, [value_of(v, env) for v in y.invars])
            env.update(zip(y.outvars, outs, strict=True))
        return [value_of(v, env) for v in other.outvars]
