"""Times as whole nanoseconds, tables, events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.tables import EVENT, REPORT, SECOND, TASK, Events, Kind, frozen, rows, to_ns, to_secs

steady = settings(deadline=None, derandomize=True, database=None)


def test_a_tenth_and_two_tenths_are_three_tenths():
    assert to_ns(0.1) + to_ns(0.2) == to_ns(0.3) == 300_000_000


@steady
@given(st.integers(0, 10**15))
def test_times_up_to_eleven_days_survive_the_surface(ns):
    assert to_ns(to_secs(ns)) == ns


def test_equal_times_go_by_kind():
    order = sorted(["WOKE", "JOINED", "LEFT", "LOST", "PROGRESSED", "ARRIVED"], key=lambda k: Kind[k])
    assert order == ["ARRIVED", "PROGRESSED", "LOST", "LEFT", "JOINED", "WOKE"]


def test_columns_that_are_not_named_are_zero():
    table = rows(TASK, 2, client=[5, 7], sent_at=SECOND)
    assert table.dtype == TASK
    assert table["client"].tolist() == [5, 7] and table["sent_at"].tolist() == [SECOND] * 2
    assert not table["ticket"].any() and not table["arrived"].any()
    with pytest.raises(ValueError, match="attempts"):
        rows(TASK, 1, attempts=1)


def test_what_is_frozen_cannot_be_written_to():
    table = frozen(rows(EVENT, 1))
    with pytest.raises(ValueError, match="read-only"):
        table["now"] = 1


def test_an_event_that_no_client_caused():
    events = Events.one(Kind.WOKE, 5 * SECOND, 3)
    row = events.table[0]
    assert (row["now"], row["kind"], row["client"], row["ticket"]) == (5 * SECOND, Kind.WOKE, -1, 3)
    assert events.reports.dtype == REPORT and len(events.reports) == 0
    told = Events.one(Kind.ADVANCED, 0, 1, rows(REPORT, 2, client=np.array([4, 5])))
    assert told.reports["client"].tolist() == [4, 5]
