"""`autoshard machines`: the catalogue at a glance, and every number's source."""

from autoshard.cli.main import main


def test_the_list_names_every_chip(capsys):
    assert main(["machines", "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "| `gb200-nvl72` |" in out
    assert main(["machines"]) == 0
    assert "autoshard machines CHIP" in capsys.readouterr().out


def test_a_chip_shows_its_sources_and_what_nobody_knows(capsys):
    assert main(["machines", "h100-p5"]) == 0
    out = capsys.readouterr().out
    assert "switched.efficiency = 0.822  (NCCL maintainer" in out
    assert "variants.p5.node_hop_latency_s = 0.0003" in out
    assert main(["machines", "v2"]) == 0
    assert (
        "torus.link_bytes_per_s: not known; planning for v2 is refused" in capsys.readouterr().out
    )
    assert main(["machines", "h1000"]) == 2
    assert "did you mean 'h100'" in capsys.readouterr().err
