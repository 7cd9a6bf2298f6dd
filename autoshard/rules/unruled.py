"""Primitives that have no rule on purpose, and why.

They are kept whole like any other unknown primitive; tests/rules compares this table with the
primitives JAX has, so that a new one is noticed and either ruled or explained here.
"""

from __future__ import annotations

from collections.abc import Mapping

_BODY = "control flow: its body is traced into the program"
_MANUAL = "communication inside manually partitioned code (shard_map), which is one op to us"
_REFERENCE = "works on mutable references, not on values"
_EFFECT = "orders side effects and carries no data to lay out"
_DEVICES = "places its body on devices by itself (`jax.pmap`, up to JAX 0.9)"
_CALLABLE = "calls functions given as parameters; what they do with dimensions is not known"

_WHY: Mapping[str, str] = {
    _BODY: (
        "call closed_call cond custom_jvp_call custom_linear_solve custom_vjp_call eval_jaxpr jit"
        " remat2 scan while"
    ),
    _MANUAL: ("ragged_all_to_all"),
    _REFERENCE: "addupdate get swap",
    _EFFECT: "after_all create_token",
    _CALLABLE: "custom_lin",
    _DEVICES: "xla_pmap",
}

UNRULED: Mapping[str, str] = {name: why for why, names in _WHY.items() for name in names.split()}
