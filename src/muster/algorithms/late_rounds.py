"""Rounds whose late updates count in the rounds that follow, as REFL wants it (see `refl.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from muster.core.algorithm import Pace, Plan, State, View
from muster.core.tables import Appetite, Reason, Table, to_ns

NONE = -1


@dataclass(frozen=True)
class LateRounds(Pace):
    """A round closes with its cohort or its deadline; who is late goes on and counts when the next closes."""

    cohort: int = 10
    """Updates of its own that close a round."""
    over_commit: float = 1.3
    """Tasks sent for each update wanted."""
    concurrency: int = 30
    """Tasks out at most, late ones among them: where many are late, rounds are smaller."""
    deadline_secs: float | None = None
    """Close the round after so long with what has arrived."""
    max_late: int = 5
    """Rounds that an update may be late; who will be later is told to stop."""
    min_reports: int = 1
    """With fewer updates of its own when a round closes, it has failed."""
    min_start: int | None = None
    """Wait until so many clients are free before a round starts; default: the cohort."""

    def __post_init__(self) -> None:
        self.check_number("cohort", at_least=1)
        self.check_number("over_commit", at_least=1)
        self.check_number("concurrency", at_least=self.cohort)
        self.check_number("deadline_secs", above=0, at_most=1e9)
        self.check_number("max_late", at_least=0, at_most=1_000)
        self.check_number("min_reports", at_least=1, at_most=self.cohort)
        self.check_number("min_start", at_least=self.min_reports, at_most=self.num_sent)

    @property
    def num_sent(self) -> int:
        """Tasks of one round, if few are late."""
        return min(ceil(self.cohort * self.over_commit - 1e-9), self.concurrency)

    def init(self) -> State:
        """The version whose round was sent."""
        return {"open": NONE}

    @property
    def max_accepts(self) -> int:
        """The cohort, and all others that were out, if they come together."""
        return self.cohort + self.concurrency

    @property
    def max_out(self) -> int:
        """The concurrency."""
        return self.concurrency

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """Up to what closes the round, be it the cohort or the last of it; a row at a time without one."""
        own = tasks["arrived"][tasks["version"] == state["open"]]
        came = int(np.count_nonzero(own))
        return Appetite(max(min(self.cohort, len(own)) - came, 1), stop_at_loss=True)

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Opens a round; closes it with all that has arrived on the cohort, the deadline or the last loss."""
        tasks = view.tasks
        fresh, arrived = tasks["version"] == view.version, tasks["arrived"]
        if not fresh.any():
            if view.num_lost > 0 and state["open"] == view.version:
                return {"open": NONE}, Plan(failed=True)
            room = min(self.num_sent, self.concurrency - int(np.count_nonzero(~arrived)))
            if room == 0:
                return {"open": NONE}, Plan()
            start = min(self.cohort if self.min_start is None else self.min_start, room)
            deadline = None if self.deadline_secs is None else to_ns(self.deadline_secs)
            return {"open": view.version}, Plan(send=room, min_start=start, wake_after_ns=deadline)
        num_own = int(np.count_nonzero(fresh & arrived))
        if num_own < self.cohort and (fresh & ~arrived).any() and not view.due:
            return state, Plan()
        if num_own < self.min_reports:
            plan = Plan(discard=tasks["ticket"][fresh], reason=Reason.ABANDONED, failed=True)
            return {"open": NONE}, plan
        gone = ~arrived & (view.version + 1 - tasks["version"] > self.max_late)
        return {"open": NONE}, Plan(
            accept=tasks["ticket"][arrived],
            discard=tasks["ticket"][gone],
            reason=Reason.STALE,
            advance=True,
        )
