"""Reshards: which collectives, on how many bytes, in which order."""

import itertools

import numpy as np
import pytest

from autoshard.cost.collectives import collective_time_s
from autoshard.cost.reshard import PARTIAL, WHOLE, local_bytes, on, reshard_table, stages, steps
from autoshard.machine import MeshAxis

D0, D1 = on(0), on(1)
MINOR = on(0, 1)
AXES = (MeshAxis("data", 4, 1e9, 1e-6), MeshAxis("tensor", 2, 2e9, 1e-6))
MIB = float(1 << 20)


def described(src: tuple[int, int], dst: tuple[int, int]) -> list[tuple[str, str, float]]:
    """The steps of one reshard of a 1 MiB tensor: (kind, axis, bytes)."""
    found = steps(np.array([src]), np.array([dst]), MIB, AXES)
    return [(s.kind, AXES[s.axis].name, float(s.size_bytes[0, 0])) for s in found if s.mask[0, 0]]


@pytest.mark.parametrize(
    ("src", "dst", "expected"),
    [
        ((D0, D1), (D0, D1), []),
        ((WHOLE, WHOLE), (D0, D1), []),  # slicing is free
        ((D0, WHOLE), (WHOLE, WHOLE), [("all-gather", "data", MIB)]),
        ((D0, D1), (WHOLE, D1), [("all-gather", "data", MIB / 2)]),
        ((PARTIAL, WHOLE), (WHOLE, WHOLE), [("all-reduce", "data", MIB)]),
        ((PARTIAL, WHOLE), (D0, WHOLE), [("reduce-scatter", "data", MIB)]),
        ((D0, WHOLE), (D1, WHOLE), [("all-to-all", "data", MIB / 4)]),
        # Slices come first and make everything after them smaller.
        ((PARTIAL, WHOLE), (WHOLE, D1), [("all-reduce", "data", MIB / 2)]),
        # Reductions come before gathers: the gathered result is not reduced again.
        (
            (PARTIAL, D0),
            (WHOLE, WHOLE),
            [("all-reduce", "data", MIB / 2), ("all-gather", "tensor", MIB)],
        ),
        # The minor axis stays on a dimension that the major one leaves: pieces change places.
        (
            (D0, MINOR),
            (WHOLE, D0),
            [("permute", "tensor", MIB / 8), ("all-gather", "data", MIB / 2)],
        ),
        ((MINOR, D0), (WHOLE, D0), [("all-gather", "data", MIB / 2)]),
        # Two axes on one dimension swap their order.
        ((D0, MINOR), (MINOR, D0), [("permute", "tensor", MIB / 8)]),
    ],
)
def test_steps(
    src: tuple[int, int], dst: tuple[int, int], expected: list[tuple[str, str, float]]
) -> None:
    assert described(src, dst) == expected


def test_the_table_is_the_sum_of_the_steps() -> None:
    states = [PARTIAL, WHOLE, D0, D1, MINOR]
    src = np.array(list(itertools.product(states, states)))
    dst = np.array(list(itertools.product(states[1:], states[1:])))
    found = reshard_table(src, dst, MIB, AXES)
    seconds, copies = found.seconds, found.copy_bytes
    for i, j in np.ndindex(seconds.shape):
        parts = described(tuple(src[i]), tuple(dst[j]))
        axis = {a.name: a for a in AXES}
        total = sum(float(collective_time_s(kind, axis[name], size)) for kind, name, size in parts)
        assert seconds[i, j] == pytest.approx(total), (src[i], dst[j])
        expected = local_bytes(dst[j : j + 1], MIB, AXES)[0] if parts else 0.0
        assert copies[i, j] == pytest.approx(expected)


def test_an_axis_of_size_one_moves_nothing() -> None:
    axes = (MeshAxis("data", 1, 1e9, 1e-6),)
    found = reshard_table(np.array([[D0], [PARTIAL]]), np.array([[WHOLE]]), MIB, axes)
    seconds, copies = found.seconds, found.copy_bytes
    assert not seconds.any()
    assert not copies.any()


@pytest.mark.parametrize(
    ("src", "dst", "expected"),
    [
        ((D0, WHOLE), (WHOLE, WHOLE), [(D0, WHOLE), (WHOLE, WHOLE)]),
        # An exchange and a gather, one after the other.
        ((D0, MINOR), (WHOLE, D1), [(D0, MINOR), (D0, D1), (WHOLE, D1)]),
        # Sums over both axes, one scattered: no stage finishes the whole sum.
        ((PARTIAL, PARTIAL), (WHOLE, D0), [(WHOLE, D0)]),
        ((PARTIAL, PARTIAL), (D1, D0), [(D1, WHOLE), (D1, D0)]),
        # An idle axis: the summed value first.
        ((PARTIAL, WHOLE), (D0, WHOLE), [(WHOLE, WHOLE), (D0, WHOLE)]),
        ((PARTIAL, WHOLE), (D0, D1), [(WHOLE, D1), (D0, D1)]),
        # Scattered where another axis splits already: the summed value first, too.
        ((PARTIAL, D0), (MINOR, D0), [(WHOLE, D0), (MINOR, D0)]),
    ],
)
def test_stages_are_one_collective_apart(
    src: tuple[int, int], dst: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    found = stages(np.array(src), np.array(dst), AXES)
    assert [tuple(int(x) for x in state) for state in found] == expected
