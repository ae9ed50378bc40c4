"""The queue against a plain sorted list, and its rules one by one."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.tables import EVENT, Appetite, Kind, rows
from muster.sim.queue import Queue

steady = settings(deadline=None, derandomize=True, database=None)

ALL = Appetite(10**9)


def table(*listed):
    """EVENT rows from (now, kind, client, ticket), in key order."""
    made = rows(EVENT, len(listed))
    for row, values in zip(made, sorted(listed), strict=True):
        row["now"], row["kind"], row["client"], row["ticket"] = values
    return made


def plain(events):
    return [tuple(row) for row in events.table[["now", "kind", "client", "ticket"]].tolist()]


def arrived(now, client, ticket=0):
    return (now, int(Kind.ARRIVED), client, ticket)


def lost(now, client, ticket=0):
    return (now, int(Kind.LOST), client, ticket)


def filled(*runs):
    queue = Queue()
    for run in runs:
        queue.push(table(*run))
    return queue


def test_runs_are_merged_by_time():
    queue = filled([arrived(1, 0), arrived(5, 1)], [arrived(2, 2), arrived(9, 3)], [arrived(3, 4)])
    assert [row[0] for row in plain(queue.take(ALL))] == [1, 2, 3, 5, 9]
    assert queue.take(ALL) is None


def test_ties_go_by_kind_then_client_then_who_was_pushed_first():
    queue = filled([lost(7, 0, 10), arrived(7, 5, 11)], [arrived(7, 3, 12)], [arrived(7, 5, 13)])
    assert [row[3] for row in plain(queue.take(ALL))] == [12, 11, 13, 10]


def test_an_empty_run_and_an_empty_queue():
    queue = filled([])
    assert queue.take(ALL) is None
    queue.drop(np.array([1, 2]))
    assert queue.take(Appetite(1, stop_at_loss=True)) is None


@pytest.mark.parametrize(
    ("appetite", "clients"),
    [
        (Appetite(1), [0]),
        (Appetite(2), [0, 1, 2]),  # the loss between them comes along
        (Appetite(3), [0, 1, 2, 3, 4]),
        (Appetite(4), [0, 1, 2, 3, 4, 5]),
        (Appetite(1, stop_at_loss=True), [0]),
        (Appetite(2, stop_at_loss=True), [0, 1]),
        (Appetite(9, num_losses=1), [0, 1]),
        (Appetite(9, num_losses=2), [0, 1, 2, 3]),
        (Appetite(2, num_losses=2), [0, 1, 2]),
        (Appetite(9, num_losses=3), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_delivery_ends_with_the_appetite(appetite, clients):
    queue = filled([arrived(1, 0), arrived(3, 2), arrived(5, 4)], [lost(2, 1), lost(4, 3), lost(6, 5)])
    assert [row[2] for row in plain(queue.take(appetite))] == clients


def test_the_timer_cuts_and_rings_after_all_else_of_its_instant():
    queue = filled([arrived(1, 0), lost(5, 1), arrived(5, 2), arrived(6, 3)])
    queue.wake_at(5, 17)
    assert [row[2] for row in plain(queue.take(ALL))] == [0, 2, 1]
    assert plain(queue.take(ALL)) == [(5, int(Kind.WOKE), -1, 17)]
    assert [row[2] for row in plain(queue.take(ALL))] == [3]
    assert queue.take(ALL) is None, "a timer rings once"


def test_a_new_timer_takes_the_place_of_the_old():
    queue = Queue()
    queue.wake_at(5, 0)
    queue.wake_at(9, 1)
    assert plain(queue.take(ALL)) == [(9, int(Kind.WOKE), -1, 1)]
    assert queue.take(ALL) is None


def test_dropped_tickets_never_come():
    queue = filled(
        [arrived(1, 0, 10), arrived(2, 1, 11), arrived(3, 2, 12)], [arrived(2, 3, 13)], [lost(4, 4, 14)]
    )
    assert [row[3] for row in plain(queue.take(Appetite(1)))] == [10]
    queue.drop(np.array([11, 13, 99]))
    assert [row[3] for row in plain(queue.take(ALL))] == [12, 14]


def test_the_rows_pushed_are_not_changed():
    run = table(arrived(1, 0, 0), arrived(2, 1, 1), lost(3, 2, 2))
    run.flags.writeable = False
    before, queue = run.tobytes(), Queue()
    queue.push(run)
    queue.take(Appetite(1))
    queue.drop(np.array([1]))
    queue.take(ALL)
    assert run.tobytes() == before


KEYS = st.tuples(st.integers(0, 6), st.sampled_from([int(Kind.ARRIVED), int(Kind.LOST)]), st.integers(0, 3))
RUNS = st.lists(st.lists(KEYS, max_size=8), max_size=5)
APPETITES = st.builds(
    Appetite,
    num_arrivals=st.integers(1, 5),
    stop_at_loss=st.booleans(),
    num_losses=st.none() | st.integers(1, 3),
)


class PlainQueue:
    """The same by a list that is sorted every time."""

    def __init__(self):
        self.pending, self.timer = [], None

    def take(self, appetite):
        taken, arrivals, losses = [], 0, 0
        most = 1 if appetite.stop_at_loss else appetite.num_losses
        self.pending.sort(key=lambda row: row[:3])  # stable: pushed first, first out
        while self.pending:
            if self.timer is not None and self.pending[0][:3] >= (self.timer[0], int(Kind.WOKE), -1):
                break
            taken.append(self.pending.pop(0))
            arrivals += taken[-1][1] == Kind.ARRIVED
            losses += taken[-1][1] == Kind.LOST
            if arrivals >= appetite.num_arrivals or (most is not None and losses >= most):
                break
        if not taken and self.timer is not None:
            taken, self.timer = [(self.timer[0], int(Kind.WOKE), -1, self.timer[1])], None
        return taken


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    runs=RUNS,
    later=RUNS,
    appetites=st.lists(APPETITES, min_size=1, max_size=12),
    timer=st.none() | st.integers(0, 7),
    dropped=st.sets(st.integers(0, 30)),
    window=st.integers(1, 4),
)
def test_it_does_what_a_sorted_list_does(runs, later, appetites, timer, dropped, window):
    queue, model, ticket = Queue(), PlainQueue(), 0

    def push(listed, from_now):
        nonlocal ticket
        for keys in listed:
            run = [(max(now, from_now), *rest, ticket + i) for i, (now, *rest) in enumerate(sorted(keys))]
            run.sort(key=lambda row: row[:3])
            ticket += len(run)
            queue.push(table(*run))
            model.pending += run

    with patch("muster.sim.queue.WINDOW", window):
        push(runs, 0)
        if timer is not None:
            queue.wake_at(timer, 1)
            model.timer = (timer, 1)
        now = 0
        for i, appetite in enumerate([*appetites, ALL, ALL, ALL]):
            if i == 2:
                push(later, now)
            if i == 4:
                queue.drop(np.array(sorted(dropped), np.int64))
                model.pending = [row for row in model.pending if row[3] not in dropped]
            expected, got = model.take(appetite), queue.take(appetite)
            assert ([] if got is None else plain(got)) == expected
            now = expected[-1][0] if expected else now


@steady
@given(runs=RUNS, appetites=st.lists(APPETITES, min_size=1))
def test_cutting_anywhere_gives_the_same_rows(runs, appetites):
    keyed = [[(*key, 100 * i + j) for j, key in enumerate(run)] for i, run in enumerate(runs)]
    whole, cut = filled(*keyed), filled(*keyed)
    rows_cut, i = [], 0
    while (events := cut.take(appetites[i % len(appetites)])) is not None:
        rows_cut += plain(events)
        i += 1
    at_once = whole.take(ALL)
    assert rows_cut == ([] if at_once is None else plain(at_once))
