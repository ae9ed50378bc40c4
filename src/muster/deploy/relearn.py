"""Updates of a deployed run, learnt again from its journal: the same tasks, seeds and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from muster.core.errors import RunFolderError
from muster.core.params import Vector
from muster.core.tables import Ids, Table
from muster.core.work import Steps
from muster.learn.crew import Kept
from muster.learn.learner import Matrix, Sent
from muster.net.received import MissingUpdateError, Received

from .local_training import LocalTraining

TOLERANCE = 1e-4
"""How far an update may be from the one that was received, as a share of its length: other processors
round otherwise, and training carries it on. On the machine of the clients there is no difference."""


class Relearning(Received):
    """Learns every folded update again and compares it with the one that came, or stands in for it.

    Reports are those of the journal, so the run goes the way that it went.

    Args:
        parts: As of `Received`.
        training: Trains, on the job's data.
        tolerance: See `TOLERANCE`.

    Attributes:
        num_learnt: Updates that were learnt again.
        num_exact: Those that came out to the bit.
        num_missing: Those of which no bits were there to compare with.
        largest: The largest difference, as a share of the update's length.

    """

    def __init__(self, *parts: Any, training: LocalTraining, tolerance: float = TOLERANCE) -> None:
        super().__init__(*parts)
        self._training, self._tolerance = training, tolerance
        self._kept: dict[int, bytes] = {}
        """What each client keeps,"""
        self._began: dict[int, bytes | None] = {}
        """what it kept when it got a task, by ticket,"""
        self._offered: dict[int, bytes] = {}
        """and what it will keep if the task's update is accepted."""
        self.num_learnt = self.num_exact = self.num_missing = 0
        self.largest = 0.0

    @property
    def by_blocks(self) -> bool:
        """No: updates that are compared are whole."""
        return False

    def note(self, tasks: Table) -> None:
        """Remembers with what clients begin a task: it may end after another of theirs was folded."""
        for client, ticket in zip(tasks["client"].tolist(), tasks["ticket"].tolist(), strict=True):
            self._began[ticket] = self._kept.get(client)

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Folds as `Received` does; clients keep what goes with an accepted update."""
        reports, states = super().train(tasks, staleness, sent, kept, now)
        for report in reports:
            client, state = int(report["client"]), self._offered.pop(int(report["ticket"]), None)
            if state is not None and not report["refused"]:
                self._kept[client] = state
        return reports, states

    def _load(self, task: Table, sent: Sent) -> None:
        learnt = self._learn(task, sent)
        self.num_learnt += 1
        try:
            super()._load(task, sent)
        except MissingUpdateError:
            self.num_missing += 1
            self._trainer.up[0] = learnt
            return
        self._compare(task, learnt, self._trainer.up[0])

    def _learn(self, task: Table, sent: Sent) -> Matrix:
        """The update of a task, f32[U, size], as its client has made it."""
        ticket, client = int(task["ticket"]), int(task["client"])
        row, steps = task.reshape(1).copy(), self._training.num_steps(client, int(task["steps"]))
        if task["lease"]:
            made = int(self._arrived[ticket].more["report"]["num_steps"])
            asked: int | Steps = Steps(None, lambda so_far: so_far < made)
        else:
            asked = steps
        got: dict[str, Vector] = {name: np.array(vector) for name, vector in sent.items()}
        update = self._training.train(row, got, self._began.pop(ticket, None), asked)
        if update.state is not None:
            self._offered[ticket] = update.state
        return update.up

    def _compare(self, task: Table, learnt: Matrix, received: Matrix) -> None:
        if np.array_equal(learnt, received):
            self.num_exact += 1
            return
        apart = float(np.linalg.norm((learnt - received).astype(np.float64)))
        length = float(np.linalg.norm(received.astype(np.float64)))
        share = apart / length if length else np.inf
        self.largest = max(self.largest, share)
        if not share <= self._tolerance:
            ticket, client, version = (int(task[name]) for name in ("ticket", "client", "version"))
            raise RunFolderError(
                f"update {ticket} (client {client}, version {version}) differs by {share:.3g} of its length "
                f"when it is learnt again; {self._tolerance:g} is allowed. Clients that brought data or "
                "training of their own (--data, --train, muster.client) cannot be checked by --relearn: "
                "`muster replay` without it folds what came. If there are none, the data here is another"
            )

    def to_json(self) -> dict[str, Any]:
        """What came of it, as JSON data."""
        return {
            "num_updates": self.num_learnt,
            "num_exact": self.num_exact,
            "num_missing": self.num_missing,
            "largest_difference": self.largest,
            "tolerance": self._tolerance,
        }
