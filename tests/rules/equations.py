"""Equations of real jaxprs, and the rules they get."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp

from autoshard.rules.notation import notation
from autoshard.rules.registry import rule_for
from autoshard.trace.walk import view


def equations(jaxpr):
    """All equations, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        bodies = [
            getattr(leaf, "jaxpr", leaf) for leaf in jax.tree.leaves(list(eqn.params.values()))
        ]
        bodies = [body for body in bodies if hasattr(body, "eqns")]
        # The combiner of a scatter or a reduce is a parameter, not a body that runs.
        if bodies and not eqn.primitive.name.startswith(("scatter", "reduce")):
            for body in bodies:
                yield from equations(body)
        yield eqn


def op_of(kind, fn, *args):
    """The last equation of that kind in the jaxpr of `fn`."""
    found = [e for e in equations(jax.make_jaxpr(fn)(*args).jaxpr) if e.primitive.name == kind]
    assert found, f"no {kind} in {jax.make_jaxpr(fn)(*args)}"
    return view(found[-1])


def rule_of(kind, fn, *args):
    return rule_for(op_of(kind, fn, *args))


def text_of(kind, fn, *args, sizes=False):
    return notation(rule_of(kind, fn, *args), sizes=sizes)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def keys(*shape):
    return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype)
