"""What is yet to happen, in key order: a heap of sorted runs of rows, one run for each `Train`.

A round of 13,000 tasks is one run, and most deliveries are one slice of it. The key of equal times is
(now, kind, client), so ties are settled the same way in every run of the program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

import numpy as np

from muster.core.tables import EVENT, Appetite, Events, Ids, Kind, Table, joined, rows

Key: TypeAlias = tuple[int, int, int]

ARRIVED, LOST = int(Kind.ARRIVED), int(Kind.LOST)
NEVER: Key = (2**63 - 1, 0, 0)
ALL = 2**62
WINDOW = 4096
"""Rows looked at in one go: a delivery of one row must not scan a long run."""


@dataclass
class Run:
    """Rows in key order, of which those before `at` have been delivered."""

    rows: Table
    at: int = 0

    def key(self, ahead: int = 0) -> Key:
        """The key of the next row, or of one further `ahead`; NEVER when there is none."""
        if self.at + ahead >= len(self.rows):
            return NEVER
        row = self.rows[self.at + ahead]
        return int(row["now"]), int(row["kind"]), int(row["client"])

    def before(self, bound: Key) -> Table:
        """The next rows that come before `bound`, at most WINDOW of them."""
        window = self.rows[self.at : self.at + WINDOW]
        now, kind, client = window["now"], window["kind"], window["client"]
        tie = (kind < bound[1]) | ((kind == bound[1]) & (client < bound[2]))
        early = (now < bound[0]) | ((now == bound[0]) & tie)
        return np.asarray(window if early.all() else window[: int(np.argmin(early))])


class Queue:
    """The rows that are still to come, and the one timer that is live."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, Run]] = []
        self._serial = 0
        self._timer: tuple[int, int] | None = None

    def push(self, rows: Table) -> None:
        """Adds EVENT rows in key order; the array is not copied and not changed."""
        if len(rows):
            run = Run(rows)
            heappush(self._heap, (run.key(), self._serial, run))
            self._serial += 1

    def wake_at(self, time_ns: int, number: int) -> None:
        """Sets the timer; the one before it will never ring."""
        self._timer = (time_ns, number)

    def next_ns(self) -> int:
        """The instant of the next row, or of the timer."""
        timer = NEVER[0] if self._timer is None else self._timer[0]
        return min(timer, self._heap[0][0][0]) if self._heap else timer

    def coming(self, count: int) -> Ids:
        """Tickets of the tasks that report next, in that order, at most `count`."""
        pending = [run.rows[run.at :] for _, _, run in self._heap]
        told = (
            np.concatenate([part[part["kind"] == ARRIVED] for part in pending]) if pending else rows(EVENT, 0)
        )
        return np.asarray(told["ticket"][np.lexsort((told["client"], told["now"]))][:count], np.int64)

    def drop(self, tickets: Ids) -> None:
        """Takes the rows of discarded tasks out at once."""
        kept: list[tuple[Key, int, Run]] = []
        for _, serial, run in self._heap:
            rest = run.rows[run.at :]
            run = Run(rest[~np.isin(rest["ticket"], tickets)])
            if len(run.rows):
                kept.append((run.key(), serial, run))
        heapify(kept)
        self._heap = kept

    def take(self, appetite: Appetite, most: int = ALL) -> Events | None:
        """The next rows, no further than the appetite and the timer allow; None: nothing is pending.

        `most`: about so many rows at most, where the shell wants no more.
        """
        timer: Key = NEVER if self._timer is None else (self._timer[0], int(Kind.WOKE), -1)
        pieces: list[Table] = []
        if appetite.whole_instant and self._heap:
            instant = (self._heap[0][0][0] + 1, -1, -1)
            timer, appetite = min(timer, instant), replace(appetite, num_arrivals=ALL, num_losses=None)
        wanted, losses, full = appetite.num_arrivals, appetite.num_losses, False
        if appetite.stop_at_loss:
            losses = 1
        while self._heap and self._heap[0][0] < timer and not full:
            _, serial, run = self._heap[0]
            piece = run.rows[run.at : run.at + 1]
            if wanted > 1:
                bound = min([timer, *(entry[0] for entry in self._heap[1:3])])
                if run.key(ahead=1) < bound:  # else one row: the heap's order decides ties of two runs
                    piece = self._cut(run.before(bound), wanted, losses)
            kinds = piece["kind"].tolist() if len(piece) == 1 else piece["kind"]
            wanted -= _count(kinds, ARRIVED)
            full = wanted <= 0
            if losses is not None:
                losses -= _count(kinds, LOST)
                full |= losses <= 0
            pieces.append(piece)
            full |= len(pieces) >= most
            run.at += len(piece)
            if run.at >= len(run.rows):
                heappop(self._heap)
            else:
                heapreplace(self._heap, (run.key(), serial, run))
        if pieces:
            return Events(pieces[0] if len(pieces) == 1 else joined(*pieces))
        if self._timer is None:
            return None
        time, number = self._timer
        self._timer = None
        return Events.one(Kind.WOKE, time, number)

    @staticmethod
    def _cut(piece: Table, wanted: int, losses: int | None) -> Table:
        """The piece up to the last row that may be delivered."""
        ends = np.cumsum(piece["kind"] == ARRIVED) >= wanted
        if losses is not None:
            ends |= np.cumsum(piece["kind"] == LOST) >= losses
        return piece[: int(np.argmax(ends)) + 1] if ends.any() else piece


def _count(kinds: list[int] | Table, kind: int) -> int:
    """How many are of a kind; one row is looked at without an array."""
    return kinds.count(kind) if isinstance(kinds, list) else int(np.count_nonzero(kinds == kind))
