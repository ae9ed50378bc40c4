import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.record import Record, Span
from muster.track.history import MOST_SPANS, History, gini, in_groups, thin

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


def test_waste_by_reason_has_a_row_a_version_the_greatest_first():
    given = [
        Record(0, 0.0, 0.0),
        Record(1, 1.0, 0.0, wasted_by_reason={"dropped": 1.0}),
        Record(2, 2.0, 0.0, wasted_by_reason={"late": 5.0, "dropped": 2.0}),
    ]
    wasted = {reason: secs.tolist() for reason, secs in History(given).wasted().items()}
    assert wasted == {"late": [0.0, 0.0, 5.0], "dropped": [0.0, 1.0, 2.0]}
    assert list(wasted) == ["late", "dropped"]


def test_when_a_metric_first_reached_each_level():
    values = (0.1, 0.4, math.nan, 0.3, 0.4, 0.6)
    given = [Record(v, 10.0 * v, 0.0, metrics={"accuracy": a, "loss": 1 - a}) for v, a in enumerate(values)]
    history = History(given)
    rows, levels = history.levels("accuracy")
    assert rows.tolist() == [0, 1, 5] and levels.tolist() == [0.1, 0.4, 0.6]
    assert history.levels("loss")[0].tolist() == [0, 1, 5]  # the loss falls
    assert [history.first_row("accuracy", value) for value in (0.05, 0.4, 0.41, 0.7)] == [0, 1, 5, None]
    assert history.first_row("f1", 0.0) is None


@pytest.mark.parametrize(
    ("times", "num_clients", "expected"),
    [
        ([3, 3, 3, 3], 4, 0.0),
        ([4], 4, 0.75),  # all by one of four: (n - 1) / n
        ([1, 3], 2, 0.25),  # mean difference 1 over twice the mean 2
        ([1, 1], 4, 0.5),
    ],
)
def test_gini_by_hand(times, num_clients, expected):
    assert gini(np.array(times), num_clients) == pytest.approx(expected)


def test_nobody_took_part_so_there_is_no_fairness():
    assert math.isnan(gini(np.zeros(0, np.int64), 5))


def test_spans_are_kept_up_to_a_bound():
    spans = tuple(Span(1, float(i), 1.0, 1.0, 1.0, "accepted") for i in range(MOST_SPANS - 1))
    history = History([Record(1, 1.0, 1.0, spans=spans), Record(2, 2.0, 1.0, spans=spans)])
    assert len(history.spans) == MOST_SPANS
