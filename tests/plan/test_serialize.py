"""Plans survive JSON, and files that are no plans are refused with the key and the cure."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoshard.plan import schema
from autoshard.plan.errors import PlanError
from autoshard.plan.model import Plan
from autoshard.plan.serialize import from_json, to_json
from autoshard.program.spec import Spec
from tests.plan.sample import make_plan

ROOT = Path(__file__).resolve().parents[2]


def edited(**changes: object) -> str:
    return json.dumps(json.loads(to_json(make_plan())) | changes)


def test_round_trip_is_exact_and_stable():
    plan = make_plan()
    text = to_json(plan)
    again = from_json(text)
    assert again == plan
    assert hash(again) == hash(plan)
    assert isinstance(again.inputs[0].bytes_per_device, float)
    assert to_json(again) == text


def test_files(tmp_path):
    plan = make_plan()
    path = tmp_path / "gpt.plan.json"
    plan.save(path)
    assert Plan.load(path) == plan
    plan.save(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["gpt.plan.json"]


def test_text_is_made_for_people():
    text = to_json(make_plan())
    assert text.startswith('{\n  "schema": 2,\n')
    assert '"spec": [null, ["data", "tensor"]]' in to_json(with_joint_spec())
    assert max(map(len, text.splitlines())) <= 160
    # A change of one spec is a change of one line.
    before = text.splitlines()
    after = to_json(with_joint_spec()).splitlines()
    assert len(set(after) - set(before)) == 1


def with_joint_spec() -> Plan:
    plan = make_plan()
    leaf = replace(plan.inputs[2], spec=Spec.of(None, ("data", "tensor")))
    return replace(plan, inputs=(*plan.inputs[:2], leaf, *plan.inputs[3:]))


def test_long_lists_of_scalars_are_filled_not_stacked():
    plan = make_plan()
    mesh = replace(plan.mesh, axis_sizes=(1024, 2), device_order=tuple(range(2048)))
    plan = replace(plan, mesh=mesh, machine=replace(plan.machine, n_devices=2048))
    text = to_json(plan)
    assert from_json(text) == plan
    assert len(text.splitlines()) < len(to_json(make_plan()).splitlines()) + 150


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not JSON"]),
        ("\x00\xff", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("[1, 2]", ["`schema` is missing", "Plan.save"]),
        ('{"mesh": {}}', ["`schema` is missing"]),
        (edited(schema=3), ["`schema` is 3", "upgrade autoshard"]),
        (edited(schema=1), ["`schema` is 1", "plan again"]),
        (edited(schema="x"), ['`schema` is "x"', "plan again"]),
        (edited(schema=True), ["`schema` is true"]),
        ('{"schema": 2}', ["missing required field `program`", "plan again"]),
        (edited(certificate={"status": "optimal"}), ["`certificate`", "`lower_bound_s`"]),
        (edited(nots=[]), ["unknown field `nots`"]),
        (edited(notes=[1]), ["`notes[0]`", "Expected `str`"]),
        (edited(machine=7), ["`machine`", "Expected `object`"]),
    ],
)
def test_garbage_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def change(where: str, value: object) -> str:
    tree = json.loads(to_json(make_plan()))
    *steps, last = [int(s) if s.isdecimal() else s for s in where.split(".")]
    node = tree
    for step in steps:
        node = node[step]
    node[last] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("inputs.1.spec", ["data", "data"], ["more than one dimension"]),
        ("inputs.1.spec", ["data"], ["`inputs[1].spec`", "1 dimensions"]),
        ("inputs.1.spec", ["model", None], ["`inputs[1].spec`", "'model'", "data 4 x tensor 2"]),
        ("constraints.0.specs", [["model", None, None]], ["`constraints[0].specs[0]`", "'model'"]),
        ("mesh.axis_sizes", [4], ["`mesh.axis_sizes`", "1 sizes for 2"]),
        ("mesh.axis_sizes", [4, 0], ["`mesh.axis_sizes`", "1 or more"]),
        ("mesh.axis_names", ["data", "data"], ["named twice"]),
        ("mesh.device_order", [0, 0, 1, 2, 3, 4, 5, 6], ["`mesh.device_order`", "8 devices"]),
        ("machine.n_devices", 4, ["`mesh`", "the machine has 4"]),
    ],
)
def test_contradictions_are_refused(where, value, words):
    with pytest.raises(PlanError) as caught:
        from_json(change(where, value), "x.json")
    for word in ("x.json", *words):
        assert word in str(caught.value)


def test_missing_file_and_unwritable_place(tmp_path):
    with pytest.raises(PlanError, match="cannot read the plan: No such file"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(PlanError, match="cannot write the plan"):
        make_plan().save(tmp_path / "no" / "plan.json")


def test_numbers_that_json_has_no_word_for_are_refused():
    plan = make_plan()
    endless = replace(plan, prediction=replace(plan.prediction, step_s=float("inf")))
    with pytest.raises(PlanError, match="finite"):
        to_json(endless)


def test_published_schema_is_up_to_date():
    assert schema.PATH.read_text() == schema.text(), "run python -m autoshard.plan.schema"


def test_schema_says_what_is_written():
    published = json.loads(schema.PATH.read_text())
    assert published["$defs"]["LeafPlan"]["additionalProperties"] is False
    assert check(published, published["$defs"]["Plan"], json.loads(to_json(make_plan()))) > 500
    with pytest.raises(AssertionError):
        check(published, published["$defs"]["Plan"], json.loads(edited(mesh=[])))


def check(root: dict, node: dict, value: object) -> int:
    """A validator for as much of JSON schema as the published one uses; counts what it checked."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    if "const" in node:
        assert value == node["const"]
        return 1
    if "anyOf" in node:
        for option in node["anyOf"]:
            try:
                return check(root, option, value)
            except AssertionError:
                continue
        raise AssertionError(f"{value!r} is none of {node['anyOf']}")
    kinds = {
        "object": dict, "array": list, "string": str, "number": (int, float), "integer": int,
        "null": type(None),
    }  # fmt: skip
    assert isinstance(value, kinds[node["type"]]), (node["type"], value)
    if isinstance(value, dict):
        assert set(node["required"]) <= set(value) <= set(node["properties"])
        return sum(check(root, node["properties"][k], v) for k, v in value.items())
    if isinstance(value, list):
        parts = node.get("prefixItems") or [node.get("items")] * len(value)
        assert len(parts) == len(value)
        return sum(check(root, part, v) for part, v in zip(parts, value, strict=True))
    return 1


def test_store_and_views_need_no_jax():
    code = (
        "import sys; from tests.plan.sample import make_plan; p = make_plan();"
        "str(p), p._repr_html_(), p.explain('mlp'), str(p.diff(p));"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr


def test_reading_a_plan_does_not_import_what_shows_it():
    code = "import sys; from autoshard.plan.serialize import load; print('rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr
