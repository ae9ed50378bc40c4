import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from muster.core.record import Record
from muster.track.history import History, in_groups, thin

RECORDS = [
    Record(0, 0.0, 0.1, metrics={"accuracy": 0.1}),
    Record(1, 10.0, 1.0, 2.0, num_accepted=2, clients=(4, 7)),
    Record(2, 25.0, 2.0, math.nan, {"accuracy": 0.5}, num_accepted=1, clients=(4,)),
]


def test_columns_and_curves_by_hand():
    history = History(RECORDS)
    assert len(history) == 3
    assert [c.tolist() for c in history.curve("accuracy", "now_secs")] == [[0.0, 25.0], [0.1, 0.5]]
    assert [c.tolist() for c in history.curve("", "version")] == [[1.0], [2.0]]  # None and NaN are left out
    assert [c.tolist() for c in history.curve("f1", "version")] == [[], []]
    assert [c.tolist() for c in history.durations()] == [[1.0, 2.0], [10.0, 15.0]]
    assert history.participation.tolist() == [1, 2]
    assert history.seen.tolist() == [0, 2, 2]


def test_no_records():
    history = History([])
    assert len(history) == 0 and history.participation.tolist() == []
    assert [c.tolist() for c in history.durations()] == [[], []]


@given(st.integers(0, 9000), st.integers(4, 2000), st.integers(0, 10))
def test_thinning_keeps_the_ends_and_the_extremes(n, most, seed):
    x, y = np.arange(float(n)), np.random.default_rng(seed).normal(size=n)
    thin_x, thin_y = thin(x, y, most)
    assert len(thin_x) == len(thin_y) <= max(most, 0)
    assert (np.diff(thin_x) > 0).all()
    if n:
        assert (thin_x[0], thin_x[-1]) == (0, n - 1)
        assert (thin_y.min(), thin_y.max()) == (y.min(), y.max())
    assert np.array_equal(y[thin_x.astype(int)], thin_y)


def test_groups_by_hand():
    size, means = in_groups(np.array([1.0, 3.0, 5.0, 7.0, 10.0]), 3)
    assert size == 2 and means.tolist() == [2.0, 6.0, 10.0]
    assert in_groups(np.zeros(0), 3)[0] == 1
