"""Bulyan on a line, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.bulyan import Bulyan, bulyan
from muster.core.errors import FieldError
from muster.core.tables import REPORT, rows

LINE = np.array([0.0, 1, 2, 3, 4, 50, 60])


def related(rule, values):
    return rule.relate(np.outer(values, values), rows(REPORT, len(values)), {})


def test_five_of_seven_are_picked_one_after_the_other():
    # 2 (1 + 1 + 4 + 4); of six, three neighbours: 1 and 3 tie at 14: 1; of five, two: 3 (1 + 9);
    # of four, one: 0 and 4 tie at 16: 0; of 4, 50, 60, one: 50 and 60 tie at 100: 50.
    assert related(Bulyan(1), LINE).tolist() == [1, 1, 1, 1, 0, 1, 0]


def test_the_three_closest_to_the_median_count():
    updates = np.stack([LINE, LINE[::-1]], axis=1).astype(np.float32)
    picked = np.array([1.0, 1, 1, 1, 0, 1, 0])
    # Picked: 0 1 2 3 50 -> 1 2 3; and 60 50 4 3 1 -> median 4: 4 3 1.
    assert Bulyan(1).fold(updates, picked) == pytest.approx([2.0, 8 / 3])


def test_without_liars_it_is_the_mean():
    updates = LINE[:, None].astype(np.float32)
    assert Bulyan(0).fold(updates, related(Bulyan(0), LINE)) == pytest.approx([120 / 7])


def test_fewer_than_the_rule_needs():
    assert Bulyan(3).liars(7) == 1 and Bulyan(3).liars(6) == 0 and Bulyan(3).liars(15) == 3
    assert related(Bulyan(3), LINE[:1]).tolist() == [1]


def test_the_algorithm_and_what_is_refused():
    assert bulyan().combine == Bulyan(1)
    with pytest.raises(FieldError, match=r"bulyan\.num_liars is -1"):
        Bulyan(num_liars=-1)
