"""Krum and Multi-Krum on a line, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.krum import Krum, krum, scores
from muster.algorithms.multi_krum import multi_krum
from muster.algorithms.together import square_distances
from muster.core.errors import FieldError
from muster.core.tables import REPORT, rows


def folded(rule, *values):
    updates = np.array(values, np.float32).reshape(len(values), -1)
    products = updates.astype(np.float64) @ updates.T.astype(np.float64)
    return rule.fold(updates, rule.relate(products, rows(REPORT, len(values)), {})).tolist()


LINE = (0.0, 1.0, 2.5, 10.0, 11.0)


def test_the_sums_of_squares_to_the_two_nearest():
    products = np.outer(LINE, LINE)
    # n - f - 2 = 2: 1 + 2.5^2; 1 + 1.5^2; 1.5^2 + 2.5^2; 1 + 7.5^2; 1 + 8.5^2.
    assert scores(square_distances(products), 1) == pytest.approx([7.25, 3.25, 8.5, 57.25, 73.25])


def test_krum_takes_the_one_closest_to_its_neighbours():
    assert folded(Krum(num_liars=1), *LINE) == [1.0]


def test_multi_krum_averages_all_but_the_liars():
    assert folded(Krum(num_liars=1, num_picks=None), *LINE) == [(1 + 0 + 2.5 + 10) / 4]
    assert folded(Krum(num_liars=1, num_picks=2), *LINE) == [0.5]


def test_the_whole_vector_counts():
    # By the first coordinate alone it would be (1, 0), with (0, 9) and (2, 0) beside it: 1 + 1. Over the
    # whole vector it is (2, 0): 1 + 16 against 1 + 25.
    assert folded(Krum(num_liars=0), (0, 9), (1, 0), (6, 0), (2, 0)) == [2.0, 0.0]


def test_of_equals_the_lowest_ticket_is_taken():
    assert folded(Krum(), 5.0, 3.0) == [5.0]
    assert folded(Krum(num_liars=1), 4.0, 4.0, 4.0, 0.0, 4.0) == [4.0]
    mirrored = Krum(num_liars=1).relate(
        np.outer((1.0, -1, 0.5, -0.5, 9), (1.0, -1, 0.5, -0.5, 9)), rows(REPORT, 5), {}
    )
    assert mirrored.tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_than_the_rule_needs_still_give_one_of_them(count):
    values = [7.0, 8.0, 7.5, 90.0][:count]
    assert folded(Krum(num_liars=2), *values)[0] in values[:3]


def test_the_algorithms_and_what_is_refused():
    assert krum().combine == Krum(2, 1) and multi_krum().combine == Krum(2, None)
    with pytest.raises(FieldError, match=r"krum\.num_liars is -1"):
        Krum(num_liars=-1)
