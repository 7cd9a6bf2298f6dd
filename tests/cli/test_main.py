"""The command line: what it prints, its exit status, and that reading plans needs no JAX."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoshard.cli import plan as plan_verb
from autoshard.cli import verify as verify_verb
from autoshard.cli.main import VERBS, main
from autoshard.errors import InfeasibleError
from autoshard.plan.model import Plan
from tests.plan.sample import make_plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.json"
    make_plan().save(path)
    return str(path)


@pytest.fixture
def other(tmp_path):
    plan = make_plan()
    path = tmp_path / "b.json"
    replace(plan, prediction=replace(plan.prediction, step_s=0.2)).save(path)
    return str(path)


def test_show(saved, capsys):
    assert main(["show", saved]) == 0
    out, err = capsys.readouterr()
    assert "train_step on v5e:2x4" in out
    assert "\x1b" not in out
    assert err == ""
    assert main(["show", saved, "--all"]) == 0
    assert len(capsys.readouterr().out) > len(out)


def test_show_json_is_the_file(saved, capsys):
    assert main(["show", saved, "--json"]) == 0
    assert capsys.readouterr().out == Path(saved).read_text()


def test_show_html(saved, tmp_path, capsys):
    page = tmp_path / "plan.html"
    assert main(["show", saved, "--html", str(page)]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == ""
    assert main(["show", saved, "--html", str(tmp_path / "no" / "p.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_diff(saved, other, capsys):
    assert main(["diff", saved, saved]) == 0
    assert capsys.readouterr().out == "no differences\n"
    assert main(["diff", saved, other]) == 1
    assert "predicted step: 166 ms -> 200 ms (1.21x)" in capsys.readouterr().out
    assert main(["diff", saved, other, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["differ"] is True
    assert found["step_s"][1] == 0.2


def test_explain(saved, capsys):
    assert main(["explain", saved, "mlp/up"]) == 0
    assert "P(None, 'data', 'tensor')" in capsys.readouterr().out
    assert main(["explain", saved, "zzz"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "matches 'zzz'" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["shwo"], "invalid choice"),
        (["show"], "PLAN"),
        (["show", "none.json"], "none.json: cannot read the plan: No such file"),
        (["show", "x", "--json", "--html", "y"], "not allowed with"),
        (["diff", "one.json"], "B"),
        (["plan", "gpt-125m"], "--on"),
        (["plan", "gpt-125m", "--on", "v5e:2x4", "--mesh", "data4"], 'write "data=4,tensor=2"'),
        (["plan", "gpt-125m", "--on", "v5e:2x4", "--memory", "14XB"], "not a size"),
        (["plan", "gpt-125m", "--on", "v5e:2x4", "--time-limit", "-1"], "write seconds"),
        (["plan", "no_such_module:f", "--on", "v5e:2x4"], "no module 'no_such_module'"),
        (["plan", "json:no_such", "--on", "v5e:2x4"], "module 'json' has no 'no_such'"),
        (["plan", "tests.cli.test_main:wrong", "--on", "v5e:2x4"], "must return (step_fn,"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert err.startswith("autoshard")


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert verb.name in out
        assert main([verb.name, "--help"]) == 0
    assert "--time-limit" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["show {a}", "diff {a} {a}", "explain {a} mlp", "show {a} --json"])
def test_reading_plans_does_not_import_jax(verb, saved):
    code = (
        "import sys; from autoshard.cli.main import main;"
        f"status = main({verb.format(a=saved).split()!r});"
        "print(status, 'jax' in sys.modules, 'ortools' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stderr.strip() == "0 False False"


def test_a_reader_that_stops_is_no_error(saved):
    code = "import sys; from autoshard.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, "show", saved, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()


def step(state, batch):
    return state, batch


def good():
    return step, ("state", "batch")


def wrong():
    return 7


class Api:
    """Stands in for `autoshard.api.plan`, and remembers."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list = []

    def __call__(self, *args, **options) -> Plan:
        self.calls.append((args, options))
        if self.error:
            raise self.error
        return make_plan()


@pytest.fixture
def api(monkeypatch):
    stand_in = Api()

    def resolve(name):
        return stand_in if name == plan_verb.PLAN else real(name)

    real = plan_verb.resolve
    monkeypatch.setattr(plan_verb, "resolve", resolve)
    return stand_in


GOOD = "tests.cli.test_main:good"


def test_plan_prints_the_plan(api, capsys):
    assert main(["plan", GOOD, "--on", "v5e:2x4"]) == 0
    assert "train_step on v5e:2x4" in capsys.readouterr().out
    ((args, options),) = api.calls
    assert args[0].__name__ == "step"
    assert args[1:] == ("state", "batch")
    assert options == {"on": "v5e:2x4", "donate_argnums": (0,)}


@pytest.mark.parametrize(("text", "donated"), [("none", ()), ("1", (1,)), ("0,2", (0, 2))])
def test_plan_donates_what_it_is_told(api, text, donated):
    assert main(["plan", GOOD, "--on", "v5e:2x4", "--donate", text]) == 0
    assert api.calls[0][1]["donate_argnums"] == donated


def test_a_batch_size_is_for_models_by_name(api, capsys):
    assert main(["plan", GOOD, "--on", "v5e:2x4", "--batch-size", "8"]) == 2
    assert "models by name" in capsys.readouterr().err


def test_plan_passes_its_flags_on(api, tmp_path, capsys):
    path = tmp_path / "saved.json"
    flags = [
        "--mesh", "data=4, tensor=2", "--memory", "14GB", "--strategy", "fsdp",
        "--time-limit", "30", "--objective", "throughput", "--save", str(path), "--json",
    ]  # fmt: skip
    assert main(["plan", GOOD, "--on", "v5e:2x4", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "mesh", "objective", "copies", "calls_per_s", "predicted_step_s", "predicted_peak_bytes",
        "lower_bound_s", "gap", "planning_s",
    }  # fmt: skip
    assert found["mesh"] == {"data": 4, "tensor": 2}
    assert found["predicted_step_s"] == make_plan().prediction.step_s
    assert 0 <= found["planning_s"] < 5
    assert Plan.load(path) == make_plan()
    options = api.calls[0][1]
    assert options["mesh"] == {"data": 4, "tensor": 2}
    assert options["memory"] == 14_000_000_000
    assert options["strategy"] == "fsdp"
    assert options["objective"] == "throughput"
    assert options["time_limit_s"] == 30.0


def test_nothing_fits_is_a_finding(api, capsys):
    api.error = InfeasibleError("no layout fits 1 GiB per device; 3.2 GiB would do", 3.2e9)
    assert main(["plan", GOOD, "--on", "v5e:2x4"]) == 1
    assert "3.2 GiB would do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("14GB", 14e9), ("1.5GiB", 1.5 * 2**30), ("512mib", 2**29), ("1024", 1024), ("2 TB", 2e12)],
)
def test_sizes(text, size_bytes):
    assert plan_verb.size_bytes(text) == size_bytes


def test_demo_is_there():
    from autoshard.cli.demo import DEMO
    from autoshard.cli.verb import resolve

    assert callable(resolve(DEMO))


def test_verify_passes_its_flags_on_and_its_status_is_the_verdict(monkeypatch, capsys):
    from tests.verify.test_compare import compared, planned

    calls = []

    def stand_in(*args, **options):
        calls.append((args, options))
        return compared([planned("all-gather", "data", 1, 8)], [], tolerance=options["tolerance"])

    real = verify_verb.resolve
    monkeypatch.setattr(
        verify_verb, "resolve", lambda name: stand_in if name == verify_verb.VERIFY else real(name)
    )
    flags = ["--mesh", "data=8", "--strategy", "zero3", "--tolerance", "0.2"]
    assert main(["verify", GOOD, "--on", "cpu:8", *flags]) == 1
    assert "Planned and not compiled" in capsys.readouterr().out
    ((args, options),) = calls
    assert args[1:] == ("state", "batch")
    assert options == {
        "on": "cpu:8", "tolerance": 0.2, "mesh": {"data": 8}, "strategy": "zero3",
        "donate_argnums": (0,),
    }  # fmt: skip
    assert main(["verify", GOOD, "--on", "cpu:8", "--tolerance", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agrees"] is True


def test_verify_refuses_a_tolerance_that_is_none(capsys):
    assert main(["verify", GOOD, "--on", "cpu:8", "--tolerance", "0"]) == 2
    assert "write a share" in capsys.readouterr().err
