"""Laws of every rule: an equation split over eight devices computes what it computes on one, and
sends what its rule foresees.

Every case is tried at drawn sizes: as it is, batched, and in reverse mode (forms.py), each equation
of which is split along each of its factors (split.py).
"""

from __future__ import annotations

import subprocess
import sys

import jax
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax.extend.core import primitives

from autoshard.rules.chatter import CHATTER
from tests.rules.equations import equations as all_equations
from tests.rules.forms import BATCH, forms
from tests.rules.law_cases import CASES, Case
from tests.rules.split import checks_of, faults
from tests.rules.taken_apart import equations

# Eight first: the first trial splits everything eight ways.
SIZES = st.sampled_from([8, 4, 2, 16, 6])

# Compiled for long, and alike at all sizes: one trial.
ONCE = ("gamma", "gamma by its parameter", "beta", "random gamma", "along a dimension")

# Ruled primitives of `jax.lax` that older JAX has not; a case tries each where it is.
NOT_OF_EVERY_JAX = {"log2", "one_minus_square", "polynomial", "stack", "unstack"}

# Ruled primitives without a case, and why.
UNTRIED = {
    name: why
    for why, names in {
        "holds no defined numbers": "empty empty2",
        "says a layout of its own": "layout_constraint reshard sharding_constraint",
        "laid out by its author": "custom_partitioning shard_map",
        "of other packages, and elementwise": (
            "nonbatchable nondifferentiable_backward nontraceable select_if_vmap unvmap_all"
            " unvmap_any unvmap_max"
        ),
        "another name of what is tried": (
            "scatter-sub scatter_add scatter_max scatter_min scatter_mul scatter_sub"
        ),
        "JAX reaches it under dynamic shapes only": "dim_as_value iota_2x32_shape platform_index",
        "for dtypes that packages define": "from_edtype to_edtype",
        "only in what `random_bits` is lowered to": "threefry4x32",
        "in code for one shard, see test_manual": (
            "all_gather all_to_all axis_index pmax pmin ppermute psum psum_invariant reduce_scatter"
        ),
        "whole, and gives other numbers by design": "rng_uniform",
        "cannot be compiled inside another program": "mulhi",
        "a part of what JAX computes by others": "random_gamma_grad",
        "a batch of problems, as `cholesky` is": (
            "cholesky_update geqp3 geqrf ormqr symmetric_product"
        ),
    }.items()
    for name in names.split()
}


def sizes_of(case: Case) -> dict[str, st.SearchStrategy[int]]:
    letters = {d for operand in case.operands for d in operand.dims if d.isalpha()}
    return dict.fromkeys((*sorted(letters), BATCH), SIZES)


@pytest.mark.parametrize("name", CASES)
def test_equations_keep_their_rules(name: str) -> None:
    case = CASES[name]
    trials: list[dict[str, int]] = []

    @settings(
        max_examples=1 if name in ONCE else 2,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.fixed_dictionaries(sizes_of(case)))
    def law(sizes: dict[str, int]) -> None:
        trials.append(sizes)
        checks = checks_of(equations(list(forms(case, sizes))))
        if len(trials) > 1:  # other sizes, half of the splits: time is short
            checks = checks[::2]
        # What sends more than foreseen would hide what others of its program send.
        for chatty in (False, True):
            some = [c for c in checks if (c.equation.op.kind in CHATTER) is chatty]
            assert not (wrong := faults(some)), "\n".join(wrong)

    law()


def _own_kinds() -> set[str]:
    """What has a rule in a process of its own: kernels of other tests have one in this."""
    say = "import autoshard.rules, autoshard.rules.registry as r; print(*r.known_kinds())"
    said = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    return {*said.stdout.split()}


def test_every_ruled_primitive_is_tried_or_explained() -> None:
    tried = set()
    for case in CASES.values():
        sizes = dict.fromkeys(sizes_of(case), 8)
        for fn, args in forms(case, sizes):
            closed = jax.make_jaxpr(fn)(*args)
            tried |= {eqn.primitive.name for eqn in all_equations(closed.jaxpr)}
    own = _own_kinds()
    missing = {name for name in NOT_OF_EVERY_JAX if not hasattr(jax.lax, f"{name}_p")}
    assert own - tried - missing == set(UNTRIED) & own
    assert set(CHATTER) <= tried
    names = {getattr(primitives, p).name for p in dir(primitives) if p.endswith("_p")}
    assert len(names & tried) > len(names & set(UNTRIED)) * 10
