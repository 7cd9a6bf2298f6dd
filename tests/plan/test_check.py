"""A plan for something else is refused with exactly what differs."""

from dataclasses import replace

import pytest

from autoshard.plan.check import refuse_mismatch
from autoshard.plan.errors import PlanError, StalePlanError
from tests.plan.sample import make_plan

PLAN = make_plan()


def differences(program=PLAN.program, machine=PLAN.machine):
    with pytest.raises(StalePlanError) as caught:
        refuse_mismatch(PLAN, program, machine)
    assert isinstance(caught.value, PlanError)
    for line in caught.value.differences[:12]:
        assert line in str(caught.value)
    return caught.value.differences


def test_the_same_is_accepted():
    refuse_mismatch(PLAN, PLAN.program, PLAN.machine)
    # More memory than planned for is no reason to refuse.
    roomy = replace(PLAN.machine, memory_limit_bytes=2 * PLAN.machine.memory_limit_bytes)
    refuse_mismatch(PLAN, PLAN.program, roomy)


def test_code_changed():
    (line,) = differences(replace(PLAN.program, fingerprint="0" * 32))
    assert line == "the function's code changed: fingerprint 9f1c2a77d0b3 -> 000000000000"


def test_inputs_changed_added_removed():
    inputs = dict(PLAN.program.inputs)
    inputs["batch['inputs']"] = "int32[128,1024]"
    del inputs["state['step']"]
    inputs["state['key']"] = "key<fry>[]"
    found = differences(replace(PLAN.program, fingerprint="x", inputs=tuple(inputs.items())))
    assert found == (
        "input removed: state['step'] (int32[])",
        "input changed: batch['inputs']: int32[64,1024] -> int32[128,1024]",
        "input added: state['key'] (key<fry>[])",
    )


def test_inputs_in_another_order():
    turned = replace(PLAN.program, inputs=PLAN.program.inputs[::-1])
    assert differences(turned) == ("the inputs are the same, in another order",)


def test_machine():
    now = replace(PLAN.machine, name="v5p:2x2x2", chip="v5p", n_devices=16)
    assert differences(machine=now) == (
        "machine: v5e:2x4 -> v5p:2x2x2",
        "chip: v5e -> v5p",
        "device count: 8 -> 16",
    )
    small = replace(PLAN.machine, memory_limit_bytes=2**30)
    assert differences(machine=small) == ("memory limit per device: 14.4 GiB -> 1.00 GiB",)


def test_long_lists_are_cut_in_the_message_only():
    gone = replace(PLAN.program, inputs=())
    assert len(differences(gone)) == len(PLAN.inputs)
    with pytest.raises(StalePlanError, match=f"and {len(PLAN.inputs) - 12} more"):
        refuse_mismatch(PLAN, gone, PLAN.machine)
