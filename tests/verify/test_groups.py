"""Replica groups in their three ways of writing, and the mesh axes they run along."""

import pytest

from autoshard.verify.groups import groups_of, pairs_of, permute_span, span

SIZES = {"data": 2, "tensor": 4}
TENSOR = ((0, 1, 2, 3), (4, 5, 6, 7))
DATA = ((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", TENSOR),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", DATA),
        ("replica_groups={}", (tuple(range(8)),)),
        ("channel_id=1", (tuple(range(8)),)),
        ("replica_groups=[2,4]<=[8], use_global_device_ids=true", TENSOR),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", DATA),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}", TENSOR),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=2,'axis_2'=4] {'axis_1'}", DATA),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", DATA),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'a'}", TENSOR),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (tuple(range(8)),)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", TENSOR),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", DATA),
    ],
)
def test_every_way_of_writing(text, groups):
    assert groups_of(text, 8) == groups


def test_axes_of_groups():
    assert span(TENSOR, SIZES) == span(((3, 1, 0, 2), (4, 5, 6, 7)), SIZES)
    assert (span(TENSOR, SIZES).axes, span(TENSOR, SIZES).size) == (("tensor",), 4)
    assert span(DATA, SIZES).axes == ("data",)
    both = span((tuple(range(8)),), SIZES)
    assert (both.axes, both.whole, both.size) == (("data", "tensor"), True, 8)


def test_half_an_axis_is_no_whole_axis():
    half = span(((0, 2), (1, 3), (4, 6), (5, 7)), SIZES)
    assert (half.axes, half.whole, half.size) == (("tensor",), False, 2)


def test_axes_of_one_device_are_never_named():
    assert span(TENSOR, {"pipe": 1, **SIZES}).axes == ("tensor",)


def test_a_device_alone_talks_to_nobody():
    alone = span(tuple((k,) for k in range(8)), SIZES)
    assert (alone.axes, alone.size) == ((), 1)


def test_permutes():
    ring = pairs_of("source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,4}}")
    assert ring == ((0, 1), (1, 2), (2, 3), (3, 0))
    assert permute_span(ring, SIZES).axes == ("tensor",)
    moved = pairs_of("source_target_pairs={{0,0},{1,4},{2,1},{3,5},{4,2},{5,6},{6,3},{7,7}}")
    assert permute_span(moved, SIZES).axes == ("data", "tensor")
