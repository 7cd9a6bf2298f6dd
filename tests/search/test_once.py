"""Arrays that usages share stay shared, whatever is done to the usages."""

import numpy as np

from autoshard.search.arrays import arrays
from autoshard.search.network import Network
from autoshard.search.once import distinct, mapped
from autoshard.search.problem import Pair, Problem, Usage, Variable

SIZE = np.array([3.0, 1.0, 2.0])
LAYERS = tuple(Usage(10 * k, 10 * k + 5, SIZE) for k in range(6))


def problem() -> Problem:
    table = np.arange(9.0).reshape(3, 3)
    copies = tuple(Usage(u.start, u.end, table) for u in LAYERS)
    variables = (Variable(np.zeros(3), LAYERS), Variable(np.zeros(3)))
    return Problem(variables, (Pair(0, 1, table, copies),), 100.0, 60)


def test_a_function_of_equal_arrays_is_asked_once():
    asked = []

    def halved(size):
        asked.append(size)
        return size / 2

    found = mapped(LAYERS, halved)
    assert [(u.start, u.end) for u in found] == [(u.start, u.end) for u in LAYERS]
    assert len(asked) == len(distinct(found)) == 1
    np.testing.assert_array_equal(found[3].size_bytes, SIZE / 2)


def test_dropping_options_leaves_one_array():
    net = Network(problem())
    net.restrict(0, np.array([0, 2]))
    assert len(distinct(net.usage(0))) == 1
    (turned,) = net.pair_sizes(1, 0)
    np.testing.assert_array_equal(turned, np.arange(9.0).reshape(3, 3)[[0, 2]].T)
    assert len(distinct(net.pair_usage(0, 1))) == 1


def test_arrays_hold_equal_bytes_once_and_use_what_the_problem_uses():
    whole = problem()
    flat = arrays(whole)
    assert len(flat.room.size) == 3
    assert len(flat.pair_room.size) == 9
    choice = np.array([2, 1])
    np.testing.assert_allclose(flat.used_bytes(choice), whole.usage_bytes(choice))
    share = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(flat.shared_bytes(share), whole.usage_bytes(choice))
    price = np.linspace(0.0, 1.0, whole.horizon)
    taken = float(flat.used_bytes(choice) @ price)
    unary, table = flat.priced_unary(price), flat.priced_table(price)
    paid = unary[2] + unary[4] + table[7] - whole.cost_s(choice.tolist())
    assert abs(paid - taken) < 1e-9
    np.testing.assert_array_equal(flat.at_time(13)[:3], SIZE)
