"""Calibration on the eight simulated devices: what is measured, and that the file is usable."""

from __future__ import annotations

import pytest

from autoshard.cli.main import main
from autoshard.execute.calibrate import QUICK, calibrate
from autoshard.machine import mesh_from_sizes, parse_machine


@pytest.fixture(scope="module")
def measured(devices, tmp_path_factory):
    out = tmp_path_factory.mktemp("machines") / "here.toml"
    return out, calibrate(out, effort=QUICK, tell=lambda line: None)


@pytest.fixture(scope="session")
def devices():
    import jax

    return jax.devices()


def test_every_kind_of_axis_and_collective_is_measured(measured) -> None:
    _, found = measured
    seen = {(c.kind, c.mesh[c.axis]) for c in found.measurements.collectives}
    kinds = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute")
    assert seen == {(kind, size) for kind in kinds for size in (2, 4, 8)}
    assert all(c.seconds > 0 for c in found.measurements.collectives)
    assert [m.size for m in found.measurements.matmuls] == list(QUICK.matmul_sizes)


def test_the_file_is_a_machine(measured) -> None:
    out, found = measured
    machine = parse_machine(str(out))
    assert machine.name == "cpu:8"
    assert machine.chip.flops_per_s("float32") == pytest.approx(found.rates["float32"], rel=1e-4)
    reached = machine.chip.memory_bytes_per_s * machine.chip.memory_efficiency
    assert reached == pytest.approx(found.memory_bytes_per_s, rel=1e-4)
    axis = mesh_from_sizes(machine, {"data": 8}).axes[0]
    assert axis.bytes_per_s == pytest.approx(found.link_bytes_per_s, rel=1e-4)
    assert "# all-gather over data of data 8 x tensor 1" in out.read_text()


def test_the_folder_stands_in_for_the_catalogue(measured, monkeypatch) -> None:
    out, found = measured
    monkeypatch.setenv("AUTOSHARD_MACHINES", str(out.parent))
    assert parse_machine("cpu:4").chip.flops_per_s("float32") == pytest.approx(
        found.rates["float32"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate"], "--out"),
        (["calibrate", "--out", "here.txt"], "machine files end in .toml"),
        (["calibrate", "--out", "here.toml", "--devices", "0"], "at least one"),
        (["calibrate", "--out", "here.toml", "--devices", "4"], "already started"),
    ],
)
def test_usage(arguments, words, capsys) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
