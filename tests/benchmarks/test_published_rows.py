"""Published rows as values: arithmetic on what sources say, and nothing made up."""

import pytest

from benchmarks.published.hardware import UnknownMachine, machine_of
from benchmarks.published.rows import read
from tests.benchmarks.published_record import record


@pytest.mark.parametrize(
    ("measured", "step_s"),
    [
        ({"step_s": 0.5}, 0.5),
        ({"tokens_per_s": 8192.0}, 32 * 128 / 8192),
        ({"tokens_per_s_per_chip": 1024.0}, 32 * 128 / 1024 / 16),
        ({"samples_per_s": 64.0}, 0.5),
        ({"mfu": 0.4}, None),
    ],
)
def test_step_time_is_what_the_source_prints_or_its_arithmetic(measured, step_s):
    assert read(record(measured=measured)).step_s == step_s


def test_megatron_counts_recomputation_as_a_fourth_pass():
    kind = "hardware (full recompute counted)"
    row = read(record(measured={"tflops_per_chip": 100}, tflops_kind=kind))
    tokens, layers, width, seq, vocab = 32 * 128, 2, 256, 128, 1024
    # Narayanan et al., arXiv:2104.04473: 96 B s l h^2 (1 + s / 6h + V / 16lh)
    flops = 96 * tokens * layers * width**2
    flops *= 1 + seq / (6 * width) + vocab / (16 * layers * width)
    assert row.step_s == pytest.approx(flops / 100e12 / 16)


def test_gibibytes_are_no_gigabytes():
    binary = {"memory_gb": 10, "memory_unit": "GiB"}
    assert read(record(measured=binary)).memory_bytes == 10 * 2**30
    assert read(record(measured=binary | {"memory_unit": "GB"})).memory_bytes == 10e9


def test_replicas_are_what_the_other_dimensions_leave():
    row = read(record(layout__data=None, layout__tensor=4))
    assert (row.layout.data, row.layout.tensor) == (4, 4)


def test_a_layout_that_nobody_stated_is_not_made_up():
    silent = {"data": None, "tensor": None, "pipe": None}
    assert read(record(layout=silent)).layout is None


def test_the_network_of_a_cluster_is_read_from_its_name():
    machine = machine_of(read(record(hardware="A100 80GB cluster, 8 GPUs/node, 800 Gb/s per node")))
    assert machine.topology == (2, 8)
    assert machine.network.node_bytes_per_s == 100e9


def test_memory_that_is_not_the_catalogues():
    row = read(record(hardware="V100-SXM2-32GB (AWS p3dn.24xlarge)"))
    assert machine_of(row).chip.memory_bytes == 32e9


def test_slices_of_a_tpu_are_joined_by_the_data_dimension():
    row = read(
        record(
            hardware="TPU v5e (256-chip slices)",
            chips=512,
            layout={"data": 2, "fsdp": 256, "tensor": 1},
        )
    )
    assert machine_of(row).topology == (2, 16, 16)


def test_an_unknown_chip_is_named():
    with pytest.raises(UnknownMachine, match="Abacus 3000"):
        machine_of(read(record(hardware="Abacus 3000")))
