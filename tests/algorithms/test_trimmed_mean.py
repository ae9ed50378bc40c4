"""Trimmed mean: what is cut off, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.trimmed_mean import TrimmedMean, trimmed_mean
from muster.core.errors import FieldError

UPDATES = np.array([[3, -9], [100, 1], [1, 2], [4, 3], [2, 90]], np.float32)


@pytest.mark.parametrize(
    ("trim", "expected"), [(0.2, [3.0, 2.0]), (0.4, [3.0, 2.0]), (0.0, [22.0, 17.4]), (0.19, [22.0, 17.4])]
)
def test_the_extremes_of_each_coordinate_are_cut_off(trim, expected):
    folded = TrimmedMean(trim).fold(UPDATES, np.ones(5))
    assert folded.dtype == np.float32 and folded == pytest.approx(expected)


def test_the_middle_of_three_remains():
    assert TrimmedMean(0.4).fold(UPDATES[:3], np.ones(3)).tolist() == [3.0, 1.0]


def test_the_algorithm_and_what_is_refused():
    assert trimmed_mean().combine == TrimmedMean(0.2)
    with pytest.raises(FieldError, match=r"trimmed_mean\.trim is 0.5"):
        TrimmedMean(0.5)
