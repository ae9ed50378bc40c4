"""The crew of a deployed run: its clients have trained already, and their updates lie in the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from muster.core.errors import RunFolderError
from muster.core.params import ParamSpec, Vector
from muster.core.store import decode
from muster.core.sums import FixedPointSum
from muster.core.tables import REPORT, Ids, Refusal, Table, rows
from muster.data.federated import FederatedData
from muster.learn.accumulator import Folding
from muster.learn.crew import Kept, Total
from muster.learn.gate import judged
from muster.learn.learner import Learner, Scores, Sent, Trained
from muster.learn.numerics import Numerics
from muster.learn.states import State
from muster.learn.trainer import Trainer

from .folding import LaterSum, Shape
from .journal import Entry
from .spool import Spool
from .wire import Route, WireError

Examine = Callable[[Vector], Mapping[str, float]]
"""The metrics of a model."""


class MissingUpdateError(RunFolderError):
    """An update that has arrived is not in the spool any more, or is damaged."""


class Elsewhere(Learner):
    """In place of a learner: the model's layout, for a trainer that only folds."""

    numerics = Numerics()

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
    """Folds updates from the spool: a block of one is in memory, however many there are.

    Under a rule that changes updates, or needs all of them, it is one whole update and the whole sum.

    Args:
        folding: How updates are weighed and added.
        spec: Layout of the model.
        data: Of the job.
        spool: Where the updates lie.
        route: Which spans of a vector have travelled.
        arrived: Ticket -> its journal entry.
        examine: Evaluates.

    """

    def __init__(
        self,
        folding: Folding,
        spec: ParamSpec,
        data: FederatedData,
        spool: Spool,
        route: Route,
        arrived: Mapping[int, Entry],
        examine: Examine,
    ) -> None:
        self._folding, self._spec, self._data = folding, spec, data
        self._spool, self._route = spool, route
        self._arrived, self._examine = arrived, examine
        self._shape = Shape(folding.local.up, route, spec.trained)
        self._later = LaterSum(self._shape, folding.scale)
        self._known: dict[int, tuple[Vector, float]] = {}
        """By ticket, the largest coordinate and the norm of updates that were checked when they arrived."""

    @cached_property
    def _trainer(self) -> Trainer:
        """Gates, weighs and adds whole updates; it trains nothing."""
        total = FixedPointSum(len(self._folding.local.up) * self._spec.size, self._folding.scale)
        return Trainer(Elsewhere(self._spec), self._data, self._folding, total)

    @cached_property
    def by_blocks(self) -> bool:
        """Whether no update is ever whole in memory: the rule neither changes them nor needs them all."""
        combine = self._folding.combine
        return not (combine.shifts or combine.needs_all)

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Folds the updates of accepted tasks; what a client keeps stays with it."""
        if self.by_blocks:
            return self._judged(tasks, staleness), {}
        reports, states = rows(REPORT, len(tasks)), {}
        for i, task in enumerate(tasks):
            client, entry = int(task["client"]), self._arrived[int(task["ticket"])]
            report = self._report(entry, int(staleness[i]))
            if not report["refused"][0]:
                about = decode(kept[client]) if client in kept else None
                received, _, remembered = self._trainer.received(sent[int(task["version"])], about)
                self._load(task, sent[int(task["version"])])
                state = State(received, None, remembered)
                self._trainer.accumulator.gather(report, self._trainer.up[:1], [state], now)
                if (encoded := state.encoded(bool(report["refused"][0]))) is not None:
                    states[client] = encoded
            reports[i] = report[0]
        return reports, states

    def _judged(self, tasks: Table, staleness: Ids) -> Table:
        """REPORT rows; what the gate lets pass is summed when the mean is asked for."""
        combine, reports = self._folding.combine, rows(REPORT, len(tasks))
        for i, ticket in enumerate(tasks["ticket"].tolist()):
            report = self._report(self._arrived[ticket], int(staleness[i]))
            if not report["refused"][0]:
                try:
                    update = self._spool.stored(ticket)
                    known = self._known.pop(ticket, None)
                    largest, report["norm"] = self._shape.measured(update) if known is None else known
                except (OSError, WireError) as error:
                    raise MissingUpdateError(f"update {ticket} cannot be read: {error}") from error
                weights = combine.weights(report) / self._folding.max_weight
                report["refused"] = judged(largest, weights)
                if not report["refused"][0]:
                    self._later.add(update, float(weights[0]), float(largest[0]))
            reports[i] = report[0]
        for ticket in list(self._known):  # another thread may check an arrival meanwhile
            if ticket not in self._arrived:
                self._known.pop(ticket, None)
        return reports

    def _report(self, entry: Entry, staleness: int) -> Table:
        said: Mapping[str, Any] = entry.more["report"]
        report = rows(REPORT, 1, ticket=entry.ticket, client=entry.client, staleness=staleness, **said)
        report["a_norm"] = self._folding.local.worth(int(said["num_steps"]))
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
        for row, name in zip(up, self._folding.local.up, strict=True):
            self._route.put(vectors[name], row)

    def check(self, ticket: int, report: Table) -> Refusal:
        """The gate, when an update arrives: a client is told at once, and a repeat offender is noticed."""
        weights = self._folding.combine.weights(report) / self._folding.max_weight
        largest, norm = self._shape.measured(self._spool.stored(ticket))
        if self.by_blocks:
            self._known[ticket] = largest, norm
        return Refusal(int(judged(largest, weights)[0]))

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """Not here."""
        raise TypeError("deployed clients are not asked how good the model is")

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """Asks the examiner."""
        return dict(self._examine(params))

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """Not here."""
        raise TypeError("the server does not know deployed clients' examples")

    def total(self) -> Total:
        """The sum of what was folded."""
        return self._later if self.by_blocks else self._trainer.total

    def part(self, number: int, part: slice, divisor: float) -> Vector:
        """Of the mean of one of the vectors, the elements `part`."""
        return self._later.part(number, part, divisor)

    def clear(self) -> None:
        """Zeroes it."""
        if self.by_blocks:
            self._later.clear()
        else:
            self._trainer.total.clear()

    def peaks(self) -> tuple[int, ...]:
        """Nothing beside this process."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
