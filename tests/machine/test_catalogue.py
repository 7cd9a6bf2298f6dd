"""The catalogue: every number cited, malformed files refused with file and key."""

from __future__ import annotations

from importlib import resources

import pytest

from autoshard.machine import CatalogError, Torus, load_catalog
from autoshard.machine.catalogue import read_entry

FOLDER = resources.files("autoshard.machine") / "catalog"


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def test_the_first_chips_are_there() -> None:
    assert {"cpu", "v5e", "v5p", "v6e", "h100"} <= set(load_catalog())


def test_every_number_has_a_source_and_a_date() -> None:
    for entry in load_catalog().values():
        assert len(entry.citations) > 8
        for key, citation in entry.citations.items():
            assert citation.date.startswith("20"), (entry.name, key)
            assert citation.url.startswith("https://") or "calibrate" in citation.title


def test_published_numbers() -> None:
    v5e = load_catalog()["v5e"]
    assert v5e.chip.peak_flops_per_s["bf16"] == 197e12
    assert v5e.chip.memory_bytes == 16_000_000_000
    assert isinstance(v5e.network, Torus)
    assert v5e.network.link_bytes_per_s == 45e9
    assert load_catalog()["v5p"].chip.memory_bytes == 95 * 2**30


def test_file_names_are_chip_names() -> None:
    files = {path.name.removesuffix(".toml") for path in FOLDER.iterdir()}
    assert files == set(load_catalog())


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("bytes_per_s = { value = 810e9", "speed = { value = 810e9", "memory.speed is unknown"),
        ('margin = { value = 0.08, source = "nominal" }', "", "memory.margin is missing"),
        ('bytes = { value = 16e9, source = "gdoc" }', "", "memory.bytes is missing"),
        ('max_chips = { value = 256, source = "gdoc" }', "", "torus.max_chips is missing"),
        ('{ value = 16e9, source = "gdoc" }', "16e9", "memory.bytes must be { value"),
        ('16e9, source = "gdoc"', '16e9, source = "hearsay"', "memory.bytes cites 'hearsay'"),
        ("value = 16e9", 'value = "16 GB"', "memory.bytes must be a number"),
        ("value = 256", "value = 25.6", "torus.max_chips must be a positive integer"),
        ("value = [16, 16]", "value = 16", "torus.pod_shape must be a list"),
        ("value = false", "value = 0", "torus.wrap_whole_blocks must be true or false"),
        ('title = "TPU v5e"', 'colour = "red"\ntitle = "TPU v5e"', "colour is unknown"),
        ('title = "TPU v5e"\n', "", "title must be a string"),
        ('platform = "tpu"', 'platform = "npu"', "platform must be one of"),
        ('network = "torus"', 'network = "string"', "network must be one of"),
        ('["TPU v5 lite", "TPU v5e"]', "[5]", "device_kinds must be a list"),
        ('title = "nominal; calibrate to replace", ', "", "sources.nominal must have title"),
        ('name = "v5e"', "name = v5e", "not valid TOML"),
    ],
)
def test_malformed_files_are_refused(old: str, new: str, key: str) -> None:
    text = text_of("v5e")
    assert old in text
    with pytest.raises(CatalogError) as raised:
        read_entry(text.replace(old, new, 1), "v5e.toml")
    assert str(raised.value).startswith("v5e.toml: ")
    assert key in str(raised.value)


def test_a_gpu_file_needs_its_network_section() -> None:
    text = text_of("h100").replace("[switched]", "[torus]")
    with pytest.raises(CatalogError, match=r"h100\.toml: torus is unknown"):
        read_entry(text, "h100.toml")


def test_without_a_rate_nothing_can_be_costed() -> None:
    text = text_of("cpu").replace('f32 = { value = 50e9, source = "nominal" }', "")
    with pytest.raises(CatalogError, match=r"cpu\.toml: peak_flops_per_s must have a rate"):
        read_entry(text, "cpu.toml")
