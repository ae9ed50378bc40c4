"""Look-ahead: tasks that are out are trained in one call with the task that has just been accepted.

An asynchronous run accepts one update at a time, which keeps one worker busy, or fills a cohort with one
client. But what training a task comes to depends only on what it was sent, which is known. So the tasks
that will arrive next are trained along, and folded when their turn comes, to the same bits: nothing is
folded before it is accepted, and what never is has been trained in vain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from muster.core.tables import Ids, Table, joined, taken

from .learner import Sent
from .states import Learnt

AHEAD_BYTES = 256 << 20
"""What updates that wait to be folded may take up."""


@runtime_checkable
class Seer(Protocol):
    """A crew that can train without folding. Nothing may be kept of the clients."""

    @property
    def together(self) -> int:
        """Tasks that make good use of one call; 1: it trains one after another."""
        ...

    def learn(self, tasks: Table, sent: Mapping[int, Sent]) -> list[Learnt]:
        """Trains TASK rows, the longest first, and folds nothing."""
        ...

    def fold(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], learnt: Sequence[Learnt], now: Sent
    ) -> Table:
        """Folds what they have come to; returns REPORT rows, as `Crew.train` does."""
        ...


class Ahead:
    """What has been trained and waits to be accepted: at most `most` updates, of `update_bytes` each."""

    def __init__(self, crew: Seer, update_bytes: int) -> None:
        self._crew, self._most = crew, AHEAD_BYTES // update_bytes
        self._learnt: dict[int, Learnt] = {}

    @property
    def reach(self) -> int:
        """How many of the tasks that will arrive next are worth knowing; 0: none."""
        together = min(self._crew.together, self._most + 1)
        return together if together > 1 else 0

    def added(self, tasks: Table, coming: Table, versions: Collection[int]) -> Table:
        """What is to be trained now, so that `tasks` can be folded: what has not been, and some that come.

        Args:
            tasks: TASK rows that have been accepted.
            coming: TASK rows in the order in which they will arrive.
            versions: Those that a task still refers to: what was trained of others, nobody will ask for.

        """
        wanted = set(tasks["ticket"].tolist())
        self._learnt = {
            ticket: one for ticket, one in self._learnt.items() if ticket in wanted or one.version in versions
        }
        missing = taken(tasks, self._unknown(tasks))
        more = taken(coming, self._unknown(coming))
        if not len(missing) or not len(more):
            return missing
        more = taken(more, ~np.isin(more["client"], missing["client"]))
        room = min(self.reach - len(missing), self._most - len(self._learnt))
        return joined(missing, more[: max(room, 0)])

    def _unknown(self, tasks: Table) -> Table:
        return np.array([ticket not in self._learnt for ticket in tasks["ticket"].tolist()], bool)

    def learn(self, tasks: Table, sent: Mapping[int, Sent]) -> None:
        """Trains TASK rows."""
        learnt = self._crew.learn(tasks, sent) if len(tasks) else []
        self._learnt |= dict(zip(tasks["ticket"].tolist(), learnt, strict=True))

    def fold(self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], now: Sent) -> Table:
        """Folds accepted TASK rows that have been trained, and forgets them; returns REPORT rows."""
        learnt = [self._learnt.pop(ticket) for ticket in tasks["ticket"].tolist()]
        return self._crew.fold(tasks, staleness, sent, learnt, now)
