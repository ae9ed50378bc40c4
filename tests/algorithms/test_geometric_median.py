"""Weiszfeld's iterations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.geometric_median import GeometricMedian, geometric_median
from muster.core.errors import FieldError
from muster.core.tables import REPORT, rows


def folded(rule, values, examples):
    updates = np.array(values, np.float32).reshape(len(values), -1)
    products = updates.astype(np.float64) @ updates.T.astype(np.float64)
    return rule.fold(updates, rule.relate(products, rows(REPORT, len(values), num_examples=examples), {}))


@pytest.mark.parametrize(("iterations", "v"), [(1, 1.0), (2, 0.35714286), (3, 0.12195122)])
def test_two_points_of_unequal_weight(iterations, v):
    # From 2.5: b = 0.75 / 2.5 and 0.25 / 7.5; then from 1: 0.75 / 1 and 0.25 / 9; and so on.
    assert folded(GeometricMedian(iterations), [0.0, 10.0], [3, 1]) == pytest.approx([v], abs=1e-7)


def test_a_far_one_hardly_counts():
    far = folded(GeometricMedian(50), [(0, 1), (0, -1), (1, 0), (-1, 0), (1e3, 1e3)], 1)
    assert np.linalg.norm(far) < 0.6  # their mean is 283 away


def test_distances_below_the_smoothing_count_as_that():
    # v starts on the point itself: b = 1 / 0.5 for it, 1/3 / 3 for ... the shares are 1/3 each.
    v = folded(GeometricMedian(1, smoothing=0.5), [0.0, 3.0, -3.0], 1)
    # b: (1/3) / 0.5, (1/3) / 3, (1/3) / 3; the two far ones cancel.
    assert v.tolist() == [0.0]
    shares = GeometricMedian(1, smoothing=0.5).relate(
        np.outer((0.0, 3, -3), (0.0, 3, -3)), rows(REPORT, 3, num_examples=1), {}
    )
    assert shares == pytest.approx([0.75, 0.125, 0.125])


def test_nobody_has_examples():
    assert folded(GeometricMedian(), [5.0, 6.0], 0).tolist() == [0.0]


def test_the_algorithm_and_what_is_refused():
    assert geometric_median().combine == GeometricMedian(3, 1e-6)
    with pytest.raises(FieldError, match=r"geometric_median\.smoothing is 0"):
        GeometricMedian(smoothing=0.0)
