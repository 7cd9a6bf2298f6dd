"""Machines of the user's own: one file by its path, or a folder of them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from autoshard.machine import CatalogError, MachineError, machine_for_devices, parse_machine

H100 = (resources.files("autoshard.machine") / "catalog" / "h100.toml").read_text("utf-8")
MINE = H100.replace('name = "h100"', 'name = "mine"').replace("value = 80e9", "value = 70e9")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOSHARD_MACHINES", str(tmp_path))
    return tmp_path


def test_a_file_with_a_topology_is_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    path.write_text("topology = [2, 8]\n" + MINE)
    machine = parse_machine(str(path))
    assert machine.name == "2x8xmine"
    assert machine.memory_bytes == 70_000_000_000


def test_a_folder_adds_to_the_catalogue_and_stands_in_for_it(folder: Path) -> None:
    (folder / "mine.toml").write_text(MINE)
    assert parse_machine("4x8xmine-p5").memory_bytes == 70_000_000_000
    assert parse_machine("8xh100").memory_bytes == 80_000_000_000
    # The device kind is claimed by both: the user's file wins.
    assert machine_for_devices("gpu", "NVIDIA H100 80GB HBM3", 8).name == "8xmine"
    (folder / "mine.toml").rename(folder / "h100.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE, r"m\.toml: describes a chip, not a machine: add a line such as topology = \[8\]"),
        ("topology = []\n" + MINE, r"m\.toml: topology must be a list of positive integers"),
        ("topology = [16]\n" + MINE, "16 mine in one node is more than the 8 that NVLink joins"),
        (MINE.replace("[memory]", "[memori]"), r"m\.toml: memori is unknown"),
        ("counted_in = 'pods'\n" + MINE, 'counted_in must be "racks" or left out'),
        (MINE.replace('node_name = "AWS p5, EFA"\n', ""), r"variants\.p5\.node_name is missing"),
        (MINE.replace("device_bytes_per_s", "#"), r"cannot be used without switched\.device_bytes"),
    ],
)
def test_errors_are_those_of_the_catalogue(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.toml"
    if "cannot be used" in message:
        text = "topology = [8]\n" + text
    path.write_text(text)
    with pytest.raises(MachineError, match=message):
        parse_machine(str(path))


def test_files_and_folders_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CatalogError, match=r"none\.toml: cannot read the machine file: No such"):
        parse_machine(str(tmp_path / "none.toml"))
    monkeypatch.setenv("AUTOSHARD_MACHINES", str(tmp_path / "none"))
    with pytest.raises(CatalogError, match=r"AUTOSHARD_MACHINES=.*none: is no folder"):
        parse_machine("cpu:8")
