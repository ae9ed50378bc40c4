"""What has arrived, is under way, or was lost: how events are entered into the table of tasks."""

from __future__ import annotations

import numpy as np

from .population import repeats
from .state import ServerState
from .tables import EVENT, Kind, Lease, Purpose, Table, frozen, joined, rows, taken, to_secs

ARRIVED, LOST, LEFT, JOINED = int(Kind.ARRIVED), int(Kind.LOST), int(Kind.LEFT), int(Kind.JOINED)
PROGRESSED = int(Kind.PROGRESSED)
"""The kinds of rows as plain numbers, which compare faster."""
NO_PROGRESS = frozen(rows(EVENT, 0))
MAX_FAILED = 20
"""Failed rounds in a row after which a run gives up."""
MIN_LOST = 100
"""A run gives up after max(MIN_LOST, MAX_FAILED x the most tasks ever out) losses in a row."""
MAX_STALLED = 1000
"""Calls at one instant without news of a task after which a run gives up."""


def book(state: ServerState, table: Table) -> tuple[ServerState, Table, int, str]:
    """Enters arrivals, progress and losses into the table of tasks.

    Rows whose ticket is unknown, or whose task has already arrived, are duplicates or strangers.
    Returns the state, the rows that tell of progress, how many tasks of training were lost, and a reason to
    give up ("" for none).
    """
    now, kinds = int(table["now"][-1]), table["kind"]
    if len(table) == 1 and kinds[0] in (ARRIVED, LOST):
        return _book_one(state, now, int(table["ticket"][0]), bool(kinds[0] == LOST))
    tasks = state.tasks
    at = np.searchsorted(tasks["ticket"], table["ticket"])
    at = np.minimum(at, max(len(tasks) - 1, 0))
    arrived, lost, progressed = kinds == ARRIVED, kinds == LOST, kinds == PROGRESSED
    of_task = arrived | lost | progressed
    live = of_task & (tasks["ticket"][at] == table["ticket"]) if len(tasks) else np.zeros(len(table), bool)
    live &= ~tasks["arrived"][at] if len(tasks) else False
    if progressed.any() and len(tasks):  # said again, or said after it was told to send: nothing new
        asks = (tasks["lease"][at] == Lease.TRAINING) & (tasks["done"][at] < tasks["steps"][at])
        live &= ~progressed | asks
    away = (kinds == LEFT) | (kinds == JOINED)
    any_away = away.any()
    if any_away and live.any():
        live &= ~_after(away, table["client"], tasks["client"][at])
    # The first row of a ticket wins; a batch may hold its duplicate.
    if len(live) > 1 and repeats(table["ticket"][live]):
        live_rows = np.flatnonzero(live)
        first = np.unique(table["ticket"][live_rows], return_index=True)[1]
        live[np.delete(live_rows, first)] = False
    arrived, lost, progressed = live & arrived, live & lost, live & progressed

    run, longest = _losses_in_a_row(state.num_lost, arrived | progressed, lost)
    if arrived.any() or progressed.any():
        tasks = joined(tasks)  # a copy
        tasks["arrived"][at[arrived]] = True
        tasks["arrived_at"][at[arrived]] = table["now"][arrived]
        tasks["done"][at[progressed]] = tasks["steps"][at[progressed]]
    gone = np.zeros(len(tasks), bool)
    gone[at[lost]] = True
    if any_away:  # who leaves, or joins anew, no longer works on what it was sent
        gone |= np.isin(tasks["client"], table["client"][away]) & ~tasks["arrived"]
    num_gone = int(np.count_nonzero(gone))
    num_lost = int(np.count_nonzero(tasks["work"][gone] == Purpose.TRAIN))
    news = num_gone > 0 or bool(live.any())
    state, why = _booked(state, now, taken(tasks, ~gone) if num_gone else tasks, run, longest, news)
    return state, table[progressed], num_lost, why


def _book_one(state: ServerState, now: int, ticket: int, lost: bool) -> tuple[ServerState, Table, int, str]:
    """`book` of one arrival or loss, in Python's numbers: an asynchronous run has one at a time."""
    tasks = state.tasks
    at = int(tasks["ticket"].searchsorted(ticket))
    live = at < len(tasks) and bool(tasks["ticket"][at] == ticket and not tasks["arrived"][at])
    lost, run = live and lost, state.num_lost
    of_training = lost and bool(tasks["work"][at] == Purpose.TRAIN)
    if lost:
        tasks, run = joined(tasks[:at], tasks[at + 1 :]), run + 1
    elif live:
        tasks, run = joined(tasks), 0
        tasks["arrived"][at], tasks["arrived_at"][at] = True, now
    state, why = _booked(state, now, tasks, run, run, live)
    return state, NO_PROGRESS, int(of_training), why


def _booked(
    state: ServerState, now: int, tasks: Table, run: int, longest: int, news: bool
) -> tuple[ServerState, str]:
    """The state after a delivery, and a reason to give up ("" for none).

    Args:
        state: Before.
        now: The instant (ns).
        tasks: What is out, or has arrived.
        run: Losses in a row after the last row.
        longest: The most there were on the way.
        news: Whether there was news of any task.

    """
    limit = most_lost(state)
    stalled = state.num_stalled + 1 if now == state.now_ns and not news else 0
    state = state.but(tasks=frozen(tasks), now_ns=now, num_lost=run, num_stalled=stalled)
    if longest >= limit:
        return state, f"{limit} tasks in a row were lost: no client reports any more"
    if stalled >= MAX_STALLED:
        return state, f"{MAX_STALLED} steps at {to_secs(now):g} s brought no update"
    return state, ""


def _after(away: Table, left: Table, clients: Table) -> Table:
    """Which of `clients`, one a row, have left in an earlier row: where `away`, as `left` says."""
    gone_at = np.flatnonzero(away)
    who, first = np.unique(left[gone_at], return_index=True)
    at = np.minimum(np.searchsorted(who, clients), len(who) - 1)
    return np.asarray((who[at] == clients) & (np.arange(len(clients)) > gone_at[first][at]))


def most_lost(state: ServerState) -> int:
    """Losses in a row with which a run gives up."""
    return max(MIN_LOST, MAX_FAILED * state.peak_out)


def _losses_in_a_row(before: int, arrived: Table, lost: Table) -> tuple[int, int]:
    """The run of losses after the last row, and the longest run met on the way."""
    if arrived[0] and not lost.any():
        return 0, 0
    total = np.cumsum(lost)
    base = np.maximum.accumulate(np.where(arrived, total, -before))
    runs = total - base
    return int(runs[-1]), int(runs.max())
