"""The crew of a deployed run: its clients have trained already, and their updates lie in the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from muster.core.errors import RunFolderError
from muster.core.params import ParamSpec, Vector
from muster.core.store import decode
from muster.core.sums import FixedPointSum
from muster.core.tables import REPORT, Ids, Refusal, Table, rows
from muster.learn.crew import Kept
from muster.learn.gate import gate
from muster.learn.learner import Gradients, Learner, Scores, Sent, Trained
from muster.learn.states import State
from muster.learn.trainer import Trainer

from .journal import Entry
from .spool import Spool
from .wire import Route, WireError

Examine = Callable[[Vector], Mapping[str, float]]
"""The metrics of a model."""


class MissingUpdateError(RunFolderError):
    """An update that has arrived is not in the spool any more, or is damaged."""


class Elsewhere(Learner):
    """In place of a learner: the model's layout, for a trainer that only folds."""

    gradients: Gradients = "plain"
    """None are made here."""

    def __init__(self, spec: ParamSpec) -> None:
        self.spec = spec

    def initial(self, seed: int) -> Vector:
        """Not here."""
        raise TypeError("the clients train, not the server")

    def train(self, *_: Any, **__: Any) -> Trained:
        """Not here."""
        raise TypeError("the clients train, not the server")

    def scores(self, params: Vector, examples: Any) -> Scores:
        """Not here."""
        raise TypeError("the examiner evaluates, not the server")


class Received:
    """Folds updates from the spool: one at a time is in memory, however many there are.

    Args:
        trainer: Gates, weighs and adds; it trains nothing.
        spool: Where the updates lie.
        route: Which spans of a vector have travelled.
        arrived: Ticket -> its journal entry.
        examine: Evaluates.

    """

    def __init__(
        self, trainer: Trainer, spool: Spool, route: Route, arrived: Mapping[int, Entry], examine: Examine
    ) -> None:
        self._trainer, self._spool, self._route = trainer, spool, route
        self._arrived, self._examine = arrived, examine

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Folds the updates of accepted tasks; what a client keeps stays with it."""
        reports, states = rows(REPORT, len(tasks)), {}
        for i, task in enumerate(tasks):
            client, entry = int(task["client"]), self._arrived[int(task["ticket"])]
            report = self._report(entry, int(staleness[i]))
            if not report["refused"][0]:
                about = decode(kept[client]) if client in kept else None
                received, _, remembered = self._trainer.received(sent[int(task["version"])], about)
                self._load(task, sent[int(task["version"])])
                state = State(received, None, remembered)
                self._trainer.gather(report, self._trainer.up[:1], [state], now)
                if (encoded := state.encoded(bool(report["refused"][0]))) is not None:
                    states[client] = encoded
            reports[i] = report[0]
        return reports, states

    def _report(self, entry: Entry, staleness: int) -> Table:
        said: Mapping[str, Any] = entry.more["report"]
        report = rows(REPORT, 1, ticket=entry.ticket, client=entry.client, staleness=staleness, **said)
        report["a_norm"] = self._trainer.folding.local.worth(int(said["num_steps"]))
        report["refused"] = entry.more["refused"]
        return report

    def _load(self, task: Table, sent: Sent) -> None:
        """Puts the vectors of a task's update to their places in the trainer's buffer.

        `sent` is what the client had got, for who makes the update again.
        """
        ticket = int(task["ticket"])
        try:
            vectors = self._spool.vectors(ticket)
        except (OSError, WireError) as error:
            raise MissingUpdateError(f"update {ticket} cannot be read: {error}") from error
        up = self._trainer.up[0]
        up[:] = 0
        for row, name in zip(up, self._trainer.folding.local.up, strict=True):
            self._route.put(vectors[name], row)

    def check(self, ticket: int, report: Table) -> Refusal:
        """The gate, when an update arrives: a client is told at once, and a repeat offender is noticed."""
        folding = self._trainer.folding
        weights = folding.combine.weights(report) / folding.max_weight
        refusals = [int(gate(v[None], weights)[1][0]) for v in self._spool.vectors(ticket).values()]
        return Refusal(next(filter(None, refusals), Refusal.NONE))

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """Not here."""
        raise TypeError("deployed clients are not asked how good the model is")

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """Asks the examiner."""
        return dict(self._examine(params))

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """Not here."""
        raise TypeError("the server does not know deployed clients' examples")

    def total(self) -> FixedPointSum:
        """The sum of what was folded."""
        return self._trainer.total

    def clear(self) -> None:
        """Zeroes it."""
        self._trainer.total.clear()

    def peaks(self) -> tuple[int, ...]:
        """Nothing beside this process."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
