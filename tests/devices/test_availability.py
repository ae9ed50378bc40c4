"""Availability: the published cases exactly, in any order, at any wrap; and a plain reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import DataError
from muster.core.tables import SECOND
from muster.devices.availability import FAR, Availability, Intervals

steady = settings(deadline=None, derandomize=True, database=None)


def trace(starts, ends, period, unit=SECOND):
    count = len(starts)
    return Intervals.joined(
        np.zeros(count, np.int64),
        np.array(starts, np.int64) * unit,
        np.array(ends, np.int64) * unit,
        np.array([period], np.int64) * unit,
    )


def ids(*values):
    return np.array(values, np.int64)


SMALL = trace([1, 3, 6, 9], [1, 4, 7, 10], 10)
ROW_3834 = trace(
    [12788, 100044, 188992, 271372, 276663, 352625, 356267, 441193],
    [65881, 133574, 208292, 276575, 295006, 356236, 400906, 475099],
    518400,
)


def online(intervals, secs):
    return [bool(intervals.online(ids(0), s * SECOND)[0]) for s in secs]


def test_the_small_published_trace():
    assert online(SMALL, [2, 6, 8, 9, 10, 15]) == [False, True, False, True, False, False]


def test_boundaries_are_online():
    assert online(SMALL, [1, 3, 4, 6, 7, 9]) == [True] * 6
    assert not SMALL.online(ids(0), 4 * SECOND + 1)[0]
    assert not SMALL.online(ids(0), 3 * SECOND - 1)[0]


@pytest.mark.parametrize("wrap", [0, 1, 2, 1000])
def test_row_3834_in_any_order_at_any_wrap(wrap):
    told = {12787: False, 12788: True, 65881: True, 65882: False, 276600: False, 276663: True}
    order = [276663, 12787, 65882, 12788, 276600, 65881]
    secs = [s + wrap * 518400 for s in order]
    assert online(ROW_3834, secs) == [told[s] for s in order]
    # All in one call, each row with an instant of its own.
    at = np.array(secs, np.int64) * SECOND
    assert ROW_3834.online(np.zeros(6, np.int64), at).tolist() == [told[s] for s in order]


def test_share_of_row_3834():
    lengths = (ROW_3834.ends - ROW_3834.starts).sum()
    assert Fraction(int(lengths), 518400 * SECOND) == Fraction(211625, 518400)
    assert ROW_3834.shares()[0] == pytest.approx(211625 / 518400, rel=1e-15)


def test_until_and_next_by_hand():
    zero = ids(0)
    assert SMALL.online_until(zero, 3 * SECOND)[0] == 4 * SECOND
    assert SMALL.online_until(zero, 13 * SECOND)[0] == 14 * SECOND
    assert SMALL.online_until(zero, 9 * SECOND)[0] == 10 * SECOND - 1  # 10 s is 0 s of the next round
    assert SMALL.online_until(zero, 2 * SECOND)[0] == 2 * SECOND - 1  # not online
    assert SMALL.next_online(zero, 2 * SECOND)[0] == 3 * SECOND
    assert SMALL.next_online(zero, 6 * SECOND + 5)[0] == 6 * SECOND + 5
    assert SMALL.next_online(zero, 10 * SECOND)[0] == 11 * SECOND


def test_intervals_that_touch_across_the_wrap_are_one():
    around = trace([0, 8], [2, 10], 10)
    assert around.online_until(ids(0), 9 * SECOND)[0] == 12 * SECOND
    assert around.online_until(ids(0), 1 * SECOND)[0] == 2 * SECOND


def test_always_and_never():
    always = trace([0, 5], [5, 10], 10)
    assert len(always.starts) == 1
    assert always.online_until(ids(0), 7)[0] == FAR
    never = trace([], [], 10)
    assert not never.online(ids(0), 7)[0]
    assert never.next_online(ids(0), 7)[0] == FAR
    mixed = Intervals(ids(3), ids(4), ids(0, 0, 1, 1), ids(10, 10, 10))
    assert mixed.online(ids(0, 1, 2), 3).tolist() == [False, True, False]
    assert mixed.next_online(ids(0, 1, 2), 5).tolist() == [FAR, 13, FAR]
    assert mixed.online_until(ids(0, 1, 2), 3).tolist() == [2, 4, 2]


def test_a_shift_moves_a_clients_clock():
    shifted = Availability(SMALL, np.zeros(2, np.int32), ids(0, 3 * SECOND))
    assert shifted.online(ids(0, 1), 0).tolist() == [False, True]
    assert shifted.online_until(ids(0, 1), 0).tolist() == [-1, 1 * SECOND]
    assert shifted.next_online(ids(1, 0), 2 * SECOND).tolist() == [3 * SECOND, 3 * SECOND]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ((ids(0, 5), ids(5, 9), ids(0, 2), ids(10)), "overlap, touch"),
        ((ids(6, 1), ids(7, 2), ids(0, 2), ids(10)), "out of order"),
        ((ids(3), ids(2), ids(0, 1), ids(10)), "start <= end"),
        ((ids(3), ids(11), ids(0, 1), ids(10)), "period 10"),
        ((ids(3), ids(4), ids(0, 1), ids(0)), "> 0 ns"),
        ((ids(3), ids(4), ids(0, 2), ids(10)), "offsets must rise"),
    ],
)
def test_arrays_that_are_no_traces_are_refused(arrays, told):
    with pytest.raises(DataError, match=told):
        Intervals(*arrays)


@st.composite
def traces(draw):
    """Up to four traces of small periods (unit: ns) as sets of online instants, and clients on them."""
    sets = []
    for _ in range(draw(st.integers(1, 4))):
        period = draw(st.integers(1, 12))
        pairs = draw(st.lists(st.tuples(st.integers(0, period - 1), st.integers(0, 4)), max_size=5))
        sets.append((period, [(a, min(a + n, period)) for a, n in pairs]))
    row = draw(st.lists(st.integers(0, len(sets) - 1), min_size=1, max_size=6))
    shift = draw(st.lists(st.integers(-20, 20), min_size=len(row), max_size=len(row)))
    at = draw(st.lists(st.integers(0, 40), min_size=len(row), max_size=len(row)))
    return sets, row, shift, at


@steady
@given(traces())
def test_against_a_reference_instant_by_instant(case):
    sets, row, shift, at = case
    flat = [(r, a, b) for r, (_, pairs) in enumerate(sets) for a, b in pairs]
    columns = [np.array([f[i] for f in flat], np.int64) for i in range(3)]
    intervals = Intervals.joined(*columns, np.array([p for p, _ in sets], np.int64))
    who = Availability(intervals, np.array(row, np.int32), np.array(shift, np.int64))

    def there(client, instant):
        period, pairs = sets[row[client]]
        phase = (instant + shift[client]) % period
        return any(a <= phase <= b for a, b in pairs)

    clients, instants = np.arange(len(row)), np.array(at, np.int64)
    expected = [there(c, t) for c, t in zip(clients, at, strict=True)]
    assert who.online(clients, instants).tolist() == expected
    until, following = who.online_until(clients, instants), who.next_online(clients, instants)
    horizon = 30
    for c, t in zip(clients, at, strict=True):
        last = next((s - 1 for s in range(t, t + horizon) if not there(c, s)), FAR)
        first = next((s for s in range(t, t + horizon) if there(c, s)), FAR)
        assert (until[c], following[c]) == (last, first)


@steady
@given(traces(), st.integers(0, 7), st.data())
def test_when_so_many_are_online_against_a_reference(case, n, data):
    sets, row, shift, at = case
    flat = [(r, a, b) for r, (_, pairs) in enumerate(sets) for a, b in pairs]
    columns = [np.array([f[i] for f in flat], np.int64) for i in range(3)]
    intervals = Intervals.joined(*columns, np.array([p for p, _ in sets], np.int64))
    who = Availability(intervals, np.array(row, np.int32), np.array(shift, np.int64))
    but = data.draw(st.lists(st.integers(0, len(row) - 1), unique=True))
    clients = np.array([c for c in range(len(row)) if c not in but], np.int64)
    found = who.when(n, at[0], np.array(but, np.int64))
    same = len({sets[r][0] for r in row}) == 1
    horizon = 12 if same else 32  # within 12 each period of at most 12 has passed
    counted = (t for t in range(at[0], at[0] + horizon) if who.online(clients, t).sum() >= n)
    expected = next(counted, None)
    if expected is not None or same:
        assert found == expected
    elif found is not None:
        assert found >= at[0] + horizon and who.online(clients, found).sum() >= n


def test_when_looks_no_further_than_it_says():
    apart = Intervals(ids(0, 1), ids(0, 1), ids(0, 1, 2), ids(10, 10))
    both = Availability(apart, np.arange(2, dtype=np.int32), ids(0, 0))
    assert both.when(1, 2, ids()) == 10 and both.when(1, 2, ids(0)) == 11
    assert both.when(2, 0, ids()) is None and both.when(0, 5, ids()) == 5
    assert both.when(3, 0, ids()) is None


def test_periods_too_long_for_one_axis_are_searched_to_the_nanosecond():
    # Four traces of 2^61 ns are longer together than 63 bits hold: starts 2 ns apart share a unit.
    period, late = 2**61, 2**61 - 100
    starts = np.tile(np.array([5, 7, 9, late, late + 2]), 4)
    intervals = Intervals(starts, starts, np.arange(5) * 5, np.full(4, period))
    rows = np.repeat(np.arange(4), 12)
    at = np.tile(np.array([0, 4, 5, 6, 7, 8, 9, 10, late - 1, late, late + 1, late + 2]), 4)
    assert intervals.online(rows, at).tolist() == [int(t) in (5, 7, 9, late, late + 2) for t in at]
    following = np.tile(np.array([5, 5, 5, 7, 7, 9, 9, late, late, late, late + 2, late + 2]), 4)
    assert intervals.next_online(rows, at).tolist() == following.tolist()


PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10)).filter(lambda p: p[0] <= p[1]), max_size=4)


@steady
@given(st.lists(st.lists(PAIRS, min_size=2, max_size=2), min_size=1, max_size=3))
def test_all_of_is_where_each_is(several):
    """Up to three conditions over two traces of period 10, against instant by instant."""
    period = ids(10, 10)
    told = []
    for sets in several:
        flat = [(r, a, b) for r, pairs in enumerate(sets) for a, b in pairs]
        told.append(Intervals.joined(*(np.array([f[i] for f in flat], np.int64) for i in range(3)), period))
    both = Intervals.all_of(told)
    for trace in (0, 1):
        at = np.arange(10)
        expected = np.all([one.online(np.full(10, trace), at) for one in told], axis=0)
        assert both.online(np.full(10, trace), at).tolist() == expected.tolist()


def test_all_of_needs_the_same_traces():
    one = Intervals(ids(0), ids(1), ids(0, 1), ids(10))
    with pytest.raises(DataError, match="same traces and periods"):
        Intervals.all_of([one, Intervals(ids(0), ids(1), ids(0, 1), ids(12))])
