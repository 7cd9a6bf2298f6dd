"""What is installed is what is in the tree, and the front door is light and unambiguous."""

import ast
import importlib
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def packages_in(folder: str, name: str) -> set[str]:
    parents = {path.parent for path in (ROOT / folder).rglob("*.py")}
    return {".".join((name, *path.relative_to(ROOT / folder).parts)) for path in parents}


def test_every_folder_with_code_is_installed():
    roots = SETUPTOOLS["package-dir"]
    in_tree = set().union(*(packages_in(folder, name) for name, folder in roots.items()))
    assert set(SETUPTOOLS["packages"]) == in_tree | {"autoshard.strategies"}


def test_every_installed_folder_is_a_regular_package():
    roots = SETUPTOOLS["package-dir"]
    for name in SETUPTOOLS["packages"]:
        folder = roots.get(name, name.replace(".", "/"))
        assert (ROOT / folder / "__init__.py").exists(), f"{folder} has no __init__.py"


@pytest.mark.parametrize("name", ["autoshard.models", "autoshard.strategies"])
def test_folders_at_the_top_are_found_under_the_package(name):
    found = find_spec(name)
    assert found is not None
    assert found.submodule_search_locations


def test_importing_autoshard_and_its_plans_does_not_import_jax():
    code = (
        "import sys, autoshard, autoshard.plan.model; autoshard.Plan; dir(autoshard);"
        "print('jax' in sys.modules, 'ortools' in sys.modules)"
    )
    assert fresh(code) == "False False"


def test_unknown_name_is_an_attribute_error():
    import autoshard

    with pytest.raises(AttributeError, match="no attribute 'shard_it_all'"):
        _ = autoshard.shard_it_all


@pytest.mark.parametrize("name", sorted(importlib.import_module("autoshard")._PUBLIC))
def test_every_public_name_loads(name):
    import autoshard

    assert getattr(autoshard, name) is not None
    assert name in dir(autoshard)


def test_type_checkers_are_told_of_the_same_names():
    tree = ast.parse((ROOT / "autoshard" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname: f"{node.module}:{alias.name}" for node in block.body for alias in node.names
    }
    assert told == importlib.import_module("autoshard")._PUBLIC


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import autoshard.plan",
        "import autoshard.plan.model",
        "from autoshard.plan import model",
        "from autoshard.plan.model import Plan",
        "import importlib; importlib.import_module('autoshard.plan.model')",
    ],
)
def test_plan_is_the_function_whatever_was_imported_before(before):
    code = (
        f"{before}\n"
        "from autoshard import plan\n"
        "from autoshard.plan.model import Plan\n"
        "from autoshard.plan import model\n"
        "import autoshard, inspect, pickle\n"
        "assert autoshard.plan is plan and inspect.isfunction(plan), plan\n"
        "assert model.Plan is Plan is autoshard.Plan\n"
        "assert pickle.loads(pickle.dumps(Plan)) is Plan\n"
        "print(plan.__module__)"
    )
    assert fresh(code) == "autoshard.api"
