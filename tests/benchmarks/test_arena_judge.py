"""The judge of the arena on modules written by hand: every number can be worked out on paper."""

from __future__ import annotations

import pytest

from autoshard.machine import parse_machine
from benchmarks.arena.judge import Verdict, judge
from benchmarks.arena.links import Links, links_of
from benchmarks.arena.work import Reader, convolution_flops, placed

_MACHINE = parse_machine("v5e:2x4")
_CHIP = _MACHINE.chip
_LINKS = links_of(_MACHINE, range(8))
_HBM = _CHIP.memory_bytes_per_s * _CHIP.memory_efficiency
_FLOPS = _CHIP.peak_flops_per_s["bf16"] * _CHIP.matmul_efficiency
_GROUPS = "replica_groups={{0,1,2,3,4,5,6,7}}"

# 1024 x 1024 x 1024 on operands that lie on the chip: 2.1e9 FLOPs and no HBM.
_DOT_S = 2 * 1024**3 / _FLOPS
_ON_CHIP = "bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}"
_IN_HBM = "bf16[1024,1024]{1,0:T(8,128)(2,1)}"
_DOT = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"


def _module(*lines: str, above: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{above}\nENTRY %main (x: bf16[1024,1024]) -> bf16[] {{\n{body}\n}}\n"


def _judge(*lines: str, above: str = "") -> Verdict:
    return judge(_module(*lines, above=above), _CHIP, _LINKS)


def _gather_s(size_bytes: float) -> float:
    return _LINKS.seconds("all-gather", [range(8)], size_bytes)[0]


def test_a_product_takes_its_flops() -> None:
    found = _judge(
        f"%x = {_ON_CHIP} parameter(0)",
        f"ROOT %d = {_ON_CHIP} dot(%x, %x), {_DOT}",
    )
    assert found.step_s == pytest.approx(_DOT_S)
    assert found.flops == 2 * 1024**3
    assert found.hbm_bytes == 0


def test_what_moves_bytes_takes_the_bandwidth() -> None:
    found = _judge(f"%x = {_IN_HBM} parameter(0)", f"ROOT %c = {_IN_HBM} copy(%x)")
    assert found.hbm_bytes == 2 * 2 * 1024**2
    assert found.step_s == pytest.approx(found.hbm_bytes / _HBM)


def test_a_loop_counts_as_often_as_it_runs() -> None:
    loop = f"""
%body (p: (s32[], bf16[1024,1024])) -> (s32[], bf16[1024,1024]) {{
  %p = (s32[], {_ON_CHIP}) parameter(0)
  %k = s32[] get-tuple-element(%p), index=0
  %x = {_ON_CHIP} get-tuple-element(%p), index=1
  %d = {_ON_CHIP} dot(%x, %x), {_DOT}
  ROOT %t = (s32[], {_ON_CHIP}) tuple(%k, %d)
}}
%condition (p.1: (s32[], bf16[1024,1024])) -> pred[] {{
  %p.1 = (s32[], {_ON_CHIP}) parameter(0)
  %k.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] constant(12)
  ROOT %less = pred[] compare(%k.1, %n), direction=LT
}}
"""
    found = _judge(
        f"%x.1 = (s32[], {_ON_CHIP}) parameter(0)",
        f"ROOT %w = (s32[], {_ON_CHIP}) while(%x.1), condition=%condition, body=%body",
        above=loop,
    )
    assert found.step_s == pytest.approx(12 * _DOT_S, rel=1e-3)
    assert found.flops == 12 * 2 * 1024**3


def _gather(*between: str) -> Verdict:
    piece = "bf16[128,1024]{1,0:T(8,128)(2,1)S(1)}"
    return _judge(
        f"%x = {piece} parameter(0)",
        f"%y = {_ON_CHIP} parameter(1)",
        f"%s = ({piece}, {_ON_CHIP}) all-gather-start(%x), {_GROUPS}, dimensions={{0}}",
        *between,
        f"ROOT %r = {_ON_CHIP} all-gather-done(%s)",
    )


def test_an_asynchronous_pair_hides_behind_what_lies_between() -> None:
    times = 4
    found = _gather(*(f"%d{k} = {_ON_CHIP} dot(%y, %y), {_DOT}" for k in range(times)))
    sent = _gather_s(2 * 1024**2)
    assert 0 < sent < times * _DOT_S
    assert found.step_s == pytest.approx(times * _DOT_S)
    assert found.links_s == 0
    assert found.collectives["all-gather"] == pytest.approx((1, 2 * 1024**2, sent))


def test_a_pair_with_nothing_between_stands_on_the_path() -> None:
    found = _gather()
    assert found.step_s == pytest.approx(_gather_s(2 * 1024**2))
    assert found.exposed_s == {"all-gather": found.step_s}


def test_a_synchronous_one_does_not_hide() -> None:
    found = _judge(
        f"%y = {_ON_CHIP} parameter(0)",
        f"%d = {_ON_CHIP} dot(%y, %y), {_DOT}",
        f"%r = {_ON_CHIP} all-reduce(%y), channel_id=1, {_GROUPS}, to_apply=%add",
        f"ROOT %e = {_ON_CHIP} dot(%d, %r), {_DOT}",
    )
    reduce_s = _LINKS.seconds("all-reduce", [range(8)], 2 * 1024**2)[0]
    assert found.step_s == pytest.approx(2 * _DOT_S + reduce_s)
    assert found.links_s == pytest.approx(reduce_s)


def test_asynchronous_fusions_are_one_collective() -> None:
    piece = "bf16[128,1024]{1,0:T(8,128)(2,1)S(1)}"
    sent = f"all-gather(%p), channel_id=7, {_GROUPS}, dimensions={{0}}"

    def part(name: str, *more: str) -> str:
        lines = (f"%p = {piece} parameter(0)", f"%g = {_ON_CHIP} {sent}", *more)
        body = "\n".join(f"  {line}" for line in lines)
        return f"%{name} (p: bf16[128,1024]) -> bf16[1024,1024] {{\n{body}\n}}\n"

    dot = (f"%a = {_ON_CHIP} parameter(1)", f"ROOT %d = {_ON_CHIP} dot(%a, %a), {_DOT}")
    start = f"ROOT %c = {_ON_CHIP} custom-call(%g), custom_call_target="
    above = (
        part("begins", f'{start}"AsyncCollectiveStart"')
        + part("goes_on", *dot)
        + part("ends", f'{start}"AsyncCollectiveDone"')
    )
    found = _judge(
        f"%x = {piece} parameter(0)",
        f"%y = {_ON_CHIP} parameter(1)",
        f"%s = {_ON_CHIP} fusion(%x), kind=kCustom, calls=%begins",
        f"%m = {_ON_CHIP} fusion(%x, %y), kind=kOutput, calls=%goes_on",
        f"ROOT %e = {_ON_CHIP} fusion(%x), kind=kCustom, calls=%ends",
        above=above,
    )
    sent_s = _gather_s(2 * 1024**2)
    assert found.collectives["all-gather"][0] == 1
    assert found.step_s == pytest.approx(max(sent_s, _DOT_S))
    assert found.links_s == pytest.approx(max(0.0, sent_s - _DOT_S))


def test_copies_ahead_share_the_bandwidth() -> None:
    pair = f"({_ON_CHIP}, {_IN_HBM}, u32[])"
    found = _judge(
        f"%x = {_IN_HBM} parameter(0)",
        f"%s = {pair} copy-start(%x)",
        f"%c = {_IN_HBM} copy(%x)",
        f"ROOT %r = {_ON_CHIP} copy-done(%s)",
    )
    assert found.step_s == pytest.approx(3 * 2 * 1024**2 / _HBM)


def test_a_slice_of_a_stack_is_read_where_it_is_sliced() -> None:
    stack = "f32[16,1024,1024]{2,1,0:T(8,128)}"
    one = "f32[1,1024,1024]{2,1,0:T(8,128)}"
    text = _module(
        f"%x = {stack} parameter(0)",
        "%k = s32[] parameter(1)",
        f"ROOT %f = {one} fusion(%x, %k), kind=kLoop, calls=%cut",
        above=f"""
%cut (param_0.1: f32[16,1024,1024], param_1.1: s32[]) -> f32[1,1024,1024] {{
  %param_0.1 = {stack} parameter(0)
  %param_1.1 = s32[] parameter(1)
  ROOT %d = {one} dynamic-slice(%param_0.1, %param_1.1, %param_1.1, %param_1.1)
}}
""",
    )
    assert judge(text, _CHIP, _LINKS).hbm_bytes == pytest.approx(2 * 4 * 1024**2, rel=1e-6)


def test_tiles_and_places_of_types() -> None:
    padded, moved = placed("(bf16[4,12,64]{2,1,0:T(8,128)(2,1)}, f32[8,128]{1,0:T(8,128)S(1)})")
    assert (padded.bytes, padded.dense_bytes, padded.on_chip) == (
        4 * 16 * 128 * 2,
        4 * 12 * 64 * 2,
        False,
    )
    assert moved.on_chip


def test_windows_over_padding_are_no_work() -> None:
    # A batch of 12 products of 1024 x 64 x 96, written as a window that meets one place of each.
    attributes = "window={size=12 pad=11_11 rhs_reversal=1}, dim_labels=b0f_0io->b0f"
    out = 23  # places; only as many pairs meet as there are (input, window) pairs
    flops = convolution_flops((1024, 12, 64), (12, 64, 96), (1024, out, 96), attributes)
    assert flops == 2 * 1024 * 64 * 96 * 12 * 12
    dilated = "window={size=12 stride=11 lhs_dilate=12}, dim_labels=b0f_0io->b0f"
    flops = convolution_flops((1024, 12, 64), (12, 64, 96), (1024, 12, 96), dilated)
    assert flops == 2 * 1024 * 64 * 96 * 12


def test_a_fusion_computes_what_is_inside() -> None:
    inner = f"%in (a: bf16[1024,1024]) -> bf16[1024,1024] {{\n  %a = {_ON_CHIP} parameter(0)\n"
    inner += f"  ROOT %d = {_ON_CHIP} dot(%a, %a), {_DOT}\n}}\n"
    found = _judge(
        f"%x = {_ON_CHIP} parameter(0)",
        f"ROOT %f = {_ON_CHIP} fusion(%x), kind=kOutput, calls=%in",
        above=inner,
    )
    assert found.flops == 2 * 1024**3


@pytest.mark.parametrize(
    ("group", "links", "crowd"),
    [
        ((0, 1, 2, 3), 1, 1),  # a line of four
        ((0, 4), 1, 1),  # across
        (tuple(range(8)), 2, 1),  # all: a corner has two links
        ((0, 2), 1, 2),  # 1 and 3 talk over the same link
    ],
)
def test_gathers_wait_for_the_chip_with_the_fewest_links(
    group: tuple[int, ...], links: int, crowd: int
) -> None:
    plain = Links((2, 4), (False, False), tuple(range(8)), bytes_per_s=1.0, hop_s=0, start_s=0)
    n = len(group)
    seconds, _ = plain.seconds("all-gather", [group], 8.0)
    assert seconds == pytest.approx(8 * (n - 1) / n / links * crowd)
    assert plain.seconds("all-reduce", [group], 8.0)[0] == pytest.approx(2 * seconds)


def test_permutes_in_two_directions_do_not_meet() -> None:
    ring = Links((4,), (True,), (0, 1, 2, 3), bytes_per_s=1.0, hop_s=0, start_s=0)
    up = ring.seconds("permute", [(0, 1), (1, 2), (2, 3), (3, 0)], 8.0)
    down = ring.seconds("permute", [(1, 0), (2, 1), (3, 2), (0, 3)], 8.0)
    assert (up[0], down[0]) == (8.0, 8.0)
    assert not up[1] & down[1]
    # A ring that turns at the ends of a grid goes both ways along a dimension, on other links.
    grid = Links((2, 4), (False, False), (0, 1, 2, 3, 7, 6, 5, 4), 1.0, 0, 0)
    around = [(k, (k + 1) % 8) for k in range(8)]
    one, other = (grid.seconds("permute", p, 8.0) for p in (around, [(b, a) for a, b in around]))
    assert (one[0], other[0]) == (8.0, 8.0)
    assert not one[1] & other[1]
    assert ring.seconds("permute", [(0, 2), (1, 3), (2, 0), (3, 1)], 8.0)[0] == 16.0


def test_reader_knows_no_work_of_names() -> None:
    from autoshard.verify.hlo import parse

    module = parse(_module(f"%x = {_IN_HBM} parameter(0)", f"ROOT %b = {_IN_HBM} bitcast(%x)"))
    reader = Reader(module)
    assert all(reader.work("main", i).hbm_bytes == 0 for i in module.computations["main"])


def test_an_update_of_a_stack_is_written_where_it_is_updated() -> None:
    stack, one = "f32[16,1024,1024]{2,1,0:T(8,128)}", "f32[1,1024,1024]{2,1,0:T(8,128)}"
    both = f"({stack}, {one})"
    found = _judge(
        f"%x = {stack} parameter(0)",
        f"%y = {one} parameter(1)",
        "%k = s32[] parameter(2)",
        f"ROOT %f = {both} fusion(%x, %y, %k), kind=kLoop, calls=%put",
        above=f"""
%put (a: f32[16,1024,1024], b: f32[1,1024,1024], k: s32[]) -> (f32[], f32[]) {{
  %a = {stack} parameter(0)
  %b = {one} parameter(1)
  %k = s32[] parameter(2)
  %n = {one} negate(%b)
  %u = {stack} dynamic-update-slice(%a, %n, %k, %k, %k)
  %v = {stack} bitcast(%u)
  ROOT %t = {both} tuple(%v, %n)
}}
""",
    )
    assert found.hbm_bytes == pytest.approx(3 * 4 * 1024**2, rel=1e-6)
