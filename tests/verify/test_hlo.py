"""HLO text, read; and the communication of one small program as three compilers have it.

The samples in `hlo/` are one step - a loop of three layers whose weights are gathered over `data`
and whose sums run over `tensor` - compiled for 8 CPU devices, 8 H100 and a v5e 2x4 slice, with all
lines cut that neither communicate nor lead there.
"""

from pathlib import Path

import pytest

from autoshard.verify.collectives import collectives
from autoshard.verify.hlo import parse
from autoshard.verify.shapes import Array, arrays, bits, parts

HLO = Path(__file__).parent / "hlo"
SIZES = {"data": 2, "tensor": 4}
GATHERED, SUMMED = 256 * 512 // 4, 64 // 2 * 256  # elements on one device


def found(name):
    text = (HLO / f"{name}.txt").read_text()
    return collectives(text, SIZES, lambda file: "site-packages" in file)


def told(seen):
    return sorted((s.kind, s.axes, s.count, s.bytes) for s in seen)


def test_gpu_shows_gathers_sums_and_scatters():
    seen = found("gpu")
    assert told(seen) == [
        ("all-gather", ("data",), 3, 4 * GATHERED),
        ("all-gather", ("data",), 3, 4 * GATHERED),
        ("all-reduce", ("tensor",), 3, 4 * SUMMED),
        ("all-reduce", ("tensor",), 3, 4 * SUMMED),
        ("reduce-scatter", ("data",), 3, 4 * GATHERED),
        ("reduce-scatter", ("data",), 3, 4 * GATHERED),
    ]
    assert all(s.asynchronous for s in seen)
    assert all(s.whole for s in seen)


def test_cpu_has_all_reduces_for_reduce_scatters():
    assert told(found("cpu")) == [
        ("all-gather", ("data",), 3, 4 * GATHERED),
        ("all-gather", ("data",), 3, 4 * GATHERED),
        ("all-reduce", ("data",), 3, 4 * GATHERED),
        ("all-reduce", ("data",), 3, 4 * GATHERED),
        ("all-reduce", ("tensor",), 3, 4 * SUMMED),
        ("all-reduce", ("tensor",), 3, 4 * SUMMED),
    ]


def test_tpu_counts_each_channel_once_and_knows_its_fused_scatters():
    """One of the gathers stands in three fusions; the loops' trips stand in their conditions."""
    assert told(found("tpu")) == [
        ("all-gather", ("data",), 3, 2 * GATHERED),
        ("all-gather", ("data",), 3, 2 * GATHERED),
        ("all-reduce", ("tensor",), 3, 2 * SUMMED),
        ("all-reduce", ("tensor",), 3, 4 * SUMMED),
        ("reduce-scatter", ("data",), 3, 4 * GATHERED),
        ("reduce-scatter", ("data",), 3, 4 * GATHERED),
    ]


@pytest.mark.parametrize("name", ["cpu", "gpu", "tpu"])
def test_the_line_is_the_users(name):
    lines = {s.source for s in found(name)}
    assert "/home/me/train.py:10" in lines  # h @ w
    assert all(line.startswith("/home/me/train.py:") for line in lines)
    assert any(s.op_name.endswith("closed_call/dot_general") for s in found(name))


def test_the_innermost_frame_comes_first():
    module = parse((HLO / "gpu.txt").read_text())
    assert module.entry == "main.5_spmd"
    loop = next(i for i in module.computations[module.entry] if i.opcode == "while")
    frames = list(module.lines(loop))
    assert frames[0] == ("/home/me/train.py", 12)  # lax.scan
    assert frames[-2:] == [("/home/me/train.py", 20), ("/home/me/main.py", 13)]


def test_old_metadata_names_file_and_line_itself():
    text = """HloModule m
ENTRY %main (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add, \
metadata={op_name="jit(f)/sum" source_file="a.py" source_line=7}
}
"""
    (seen,) = collectives(text, {"data": 2})
    assert seen.source == "a.py:7"


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("module @jit_step {}")


def test_instructions():
    module = parse("""ENTRY %main (p: (f32[2])) -> f32[] {
  %w = (s32[], /*index=1*/f32[2,4]{1,0:T(8,128)}) while(%t), condition=%c.1, body=%b-2, x={"n":"("}
  ROOT %k = s32[] constant(12), metadata={op_name="jit(f)/g"}
}
""")
    loop, constant = module.computations["main"]
    assert (loop.opcode, loop.operands, loop.is_root) == ("while", ("t",), False)
    assert loop.type == "(s32[], f32[2,4]{1,0:T(8,128)})"
    assert loop.called("condition", "body") == ("c.1", "b-2")
    assert (constant.literal, constant.op_name, constant.is_root) == ("12", "jit(f)/g", True)


def test_types():
    assert bits("bf16") == 16
    assert bits("pred") == 8
    assert bits("f8e4m3fn") == 8
    assert bits("token") == 0
    pair = "((bf16[2,3]{1,0}, s8[4]{0}), (f32[2,3]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}))"
    assert parts(pair) == [
        "(bf16[2,3]{1,0}, s8[4]{0})",
        "(f32[2,3]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)})",
    ]
    assert parts("f32[2]{0}") == ["f32[2]{0}"]
    assert arrays(parts(pair)[0]) == [Array("bf16", (2, 3)), Array("s8", (4,))]
    assert sum(a.size_bytes for a in arrays(pair)) == 12 + 4 + 24 + 4


def step_of(line):
    return f"ENTRY %main (p: ()) -> () {{\n  %x = {line}\n}}\n"


@pytest.mark.parametrize(
    ("line", "size_bytes"),
    [
        # A start's type names its operands first; a scatter's result is a share of what it sums.
        ("(f32[2]{0}, f32[16]{0}) all-gather-start(%p), replica_groups=[1,8]<=[8]", 64),
        ("((f32[16]{0}), f32[2]{0}) reduce-scatter-start(%p), replica_groups=[1,8]<=[8]", 64),
        ("f32[16]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8]", 64),
        ("(f32[4], f32[4], u32[], u32[]) collective-permute-start(%p), "
         "source_target_pairs={{0,1},{1,0}}", 16),
        # Without a dimension an all-to-all has one piece per peer.
        ("(f32[2], f32[2], f32[2], f32[2]) all-to-all(%a, %b, %c, %d), "
         "replica_groups={{0,1,2,3},{4,5,6,7}}", 32),
        ("f32[2,4] all-to-all(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}", 32),
    ],
)  # fmt: skip
def test_bytes_are_the_larger_side_s(line, size_bytes):
    (seen,) = collectives(step_of(line), SIZES)
    assert seen.bytes == size_bytes


def test_what_stays_on_a_device_is_no_communication():
    line = "f32[4] all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"
    assert collectives(step_of(line), SIZES) == ()


def test_a_combiner_s_tensors_are_counted_one_by_one():
    line = "(f32[4], bf16[6]) all-reduce(%p, %q), replica_groups={}"
    assert [s.bytes for s in collectives(step_of(line), SIZES)] == [16, 12]


# A TPU's gather that starts before a loop of something else and goes on in every round of it.
ASYNCHRONOUS = """HloModule m

%started (p: f32[2]) -> (f32[2], f32[16]) {
  %g.1 = f32[16] all-gather(%p), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %s = (f32[2], f32[16]) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%continued (p: f32[2]) -> f32[16] {
  ROOT %g.2 = f32[16] all-gather(%p), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
}

%round (p: f32[2]) -> f32[16] {
  ROOT %f.2 = f32[16] fusion(%p), kind=kCustom, calls=%continued
}

%more (p: f32[2]) -> pred[] {
  ROOT %c = pred[] compare(%p, %p), direction=LT
}

ENTRY %main (p: f32[2]) -> f32[16] {
  %f.1 = (f32[2], f32[16]) fusion(%p), kind=kCustom, calls=%started
  ROOT %w = f32[16] while(%f.1), condition=%more, body=%round, b={"known_trip_count":{"n":"7"}}
}
"""


def test_what_starts_before_a_loop_and_goes_on_inside_it_is_sent_once():
    assert [s.count for s in collectives(ASYNCHRONOUS, SIZES)] == [1]
    # Without a start the same channel in a loop is sent in every round.
    text = ASYNCHRONOUS.replace("AsyncCollectiveStart", "Other")
    assert [s.count for s in collectives(text, SIZES)] == [7]
