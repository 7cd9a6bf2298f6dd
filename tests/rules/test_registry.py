"""The registry: duplicates, the unknown, and equations a rule does not understand."""

import subprocess
import sys

import pytest
from jax.extend.core import primitives

from autoshard.program.rule import OpClass, Rule
from autoshard.rules import registry
from autoshard.rules.base import OpView, RuleError
from autoshard.rules.boundary import identity, scan_xs, scan_ys
from autoshard.rules.notation import notation
from autoshard.rules.registry import known_kinds, register, rule_for
from autoshard.rules.unruled import UNRULED


def op(kind, in_shapes=((4, 6),), out_shapes=((4, 6),), **params):
    return OpView(
        kind=kind,
        in_shapes=in_shapes,
        in_dtypes=("float32",) * len(in_shapes),
        out_shapes=out_shapes,
        out_dtypes=("float32",) * len(out_shapes),
        params=params,
    )


def test_every_primitive_is_ruled_or_explained():
    # A JAX release that adds a primitive fails here: write its rule, or say why it has none.
    names = {getattr(primitives, name).name for name in dir(primitives) if name.endswith("_p")}
    assert names - known_kinds() - set(UNRULED) == set()
    assert known_kinds().isdisjoint(UNRULED)


def test_a_duplicate_names_both_owners():
    with pytest.raises(ValueError, match="two sharding rules") as error:

        @register("brand_new_primitive", "tanh")
        def mine(op: OpView) -> Rule:
            raise NotImplementedError

    message = str(error.value)
    assert "'tanh'" in message
    assert "autoshard.rules.elementwise:elementwise" in message
    assert f"{__name__}:test_a_duplicate_names_both_owners.<locals>.mine" in message
    assert "brand_new_primitive" not in known_kinds()  # all or nothing


def test_an_unknown_primitive_is_kept_whole_and_says_so():
    rule = rule_for(op("frobnicate", in_shapes=((4, 6), (), (3,)), out_shapes=((4,),)))
    assert not rule.known
    assert rule.op_class is OpClass.OPAQUE
    assert notation(rule) == "__,(),_->_ (no rule)"


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        (op("cumsum"), "KeyError: 'axis'"),
        (op("add", in_shapes=((4, 6), (6,))), "an operand of rank 1 meets a result of rank 2"),
        (op("add", in_shapes=((4, 6), (4, 3))), "size 3 meets size 6: neither equal nor 1"),
        (op("reshape", out_shapes=((5, 6),)), "different numbers of elements"),
        (op("split", out_shapes=((4, 3), (2, 3)), axis=1), "expected [2, 3] to match [4, 3]"),
        (op("transpose", permutation=(0,)), "result 0 has 2 dimensions, the rule 1"),
        (op("stack", in_shapes=((4,), (4,)), out_shapes=((2, 4),), axis=1), "does not divide"),
    ],
)
def test_a_misunderstood_equation_is_an_error(equation, reason):
    with pytest.raises(RuleError) as error:
        rule_for(equation)
    message = str(error.value)
    assert reason in message
    assert str(equation) in message  # the primitive and its shapes
    assert "autoshard.rules." in message  # and whose rule it is


def test_boundaries():
    assert notation(identity((4, 1, 8))) == "i_j->i_j"
    assert notation(identity(())) == "()->()"
    assert notation(scan_xs((24, 4, 8))) == "_ij->ij"
    assert notation(scan_xs((24,))) == "_->()"
    assert notation(scan_ys((4, 8), 24)) == "ij->_ij"
    assert identity((4,)).op_class is OpClass.FREE


def test_rules_do_not_import_jax():
    code = (
        "import sys, autoshard.rules.registry as r; assert r.known_kinds(); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_table_is_filled_by_importing_the_room():
    assert {"dot_general", "gather", "scatter-add", "reshape"} <= set(registry.known_kinds())
