"""The training of one client's task as a simulation's worker does it: at the client, or again in a replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from muster.core.examples import Examples, Facts
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.store import decode
from muster.core.sums import FixedPointSum
from muster.core.tables import Table
from muster.core.work import Steps
from muster.data.federated import FederatedData
from muster.learn.accumulator import Folding
from muster.learn.learner import Matrix, Trained
from muster.learn.learners import make_learner
from muster.learn.states import UNSENT, State
from muster.learn.trainer import Trainer
from muster.net.client import Task

from .errand import Errand

Train = Callable[[Task], None]
"""Works on a task, until its update is sent."""


@dataclass(frozen=True)
class Update:
    """What a client has made of a task."""

    up: Matrix
    """The vectors that go up by the names in `local.up`, f32[U, size], as the server will read them."""
    packed: list[bytes] | None
    """The same as the job's compression writes them; None where there is none, or one is not finite."""
    trained: Trained
    loss_before: float
    """Of the model received, over all of the client's examples; NaN where nobody asks."""
    state: bytes | None
    """What the client keeps if the update is accepted; None: what it has kept."""


class LocalTraining:
    """Trains as a simulation would, to the same bits.

    Args:
        errand: What is trained.
        data: What clients hold.

    Raises:
        UserError: The model cannot be built on this machine.

    """

    def __init__(self, errand: Errand, data: FederatedData) -> None:
        local, self.errand, self._data = errand.local, errand, data
        self.learner = make_learner(
            errand.backend, errand.model, errand.task, errand.facts, local, errand.work, errand.numerics
        )
        self._trainer = Trainer(self.learner, data, _folding(errand), FixedPointSum(0, 0))
        self._initial = self.learner.initial(errand.seeds["model"])

    def _received(self, sent: Mapping[str, Vector], about: Mapping[str, object] | None) -> State:
        """What the client trains from; its own entries are those of the untrained model at first."""
        if len(own := self._trainer.personal):
            sent = {**sent, "model": np.array(sent["model"])}
            sent["model"][own] = self._initial[own]
        received, mine, _ = self._trainer.received(sent, about)
        return State(received, mine, {}, unsent=(about or {}).get(UNSENT))  # type: ignore[arg-type]

    def num_steps(self, client: int, asked: int) -> int:
        """Steps of a task for which the server has `asked`, 0: as many as the job's work says."""
        return int(self.errand.work.num_steps(np.array([len(self._data.client(client))]), asked)[0])

    def measure(self, client: int, sent: Mapping[str, Vector], kept: bytes | None) -> Mapping[str, float]:
        """Loss and accuracy of the model sent on the client's own examples; NaN if it has none."""
        about = None if kept is None else decode(kept)
        found = self._trainer.measured([client], [self._received(sent, about)])
        return {name: float(value[0]) for name, value in found.items()}

    def train(
        self, task: Table, sent: Mapping[str, Vector], kept: bytes | None, steps: int | Steps
    ) -> Update:
        """Trains one task.

        Args:
            task: Its TASK row, [1].
            sent: What the client was sent, by name: the `model` f32[size], others f32[trained].
            kept: The client's lasting state; None if it has none.
            steps: How many there are, or who is asked; see `Learner.train`.

        """
        client, attempt = int(task["client"][0]), int(task["attempt"][0])
        trainer, uploads = self._trainer, self._trainer.uploads
        state, up = self._received(sent, None if kept is None else decode(kept)), trainer.up[0]
        draw = rng(self.errand.seeds["training"], "train", client, attempt)
        examples = uploads.examples(client, attempt)
        trained = self.learner.train(state.received, examples, draw, up, state.mine, steps)
        state.lasting = trainer.lasting(trained.num_steps, trained.kept, state.received, up, state.mine)
        if isinstance(steps, Steps) and steps.num_steps is None:
            task["steps"] = trained.num_steps
        uploads.forge(task[0], state.received, up)
        packed = None
        if (made := uploads.encoded(task[0], up, state.unsent)) is not None:
            packed, state.unsent, up[:, uploads.shared] = made.packed, made.unsent, made.decoded
        before = trainer.losses_before(task, [state])[0]
        return Update(up, packed, trained, float(before), state.encoded(refused=False))


def _folding(errand: Errand) -> Folding:
    """Of a trainer that does not fold."""
    from muster.algorithms.fedavg import Mean

    seed = errand.seeds["training"]
    return Folding(Mean(), 1.0, 0, seed, errand.local, None, errand.compress, errand.attack)


def answer(task: Task, found: Mapping[str, float], num_examples: int) -> None:
    """Says how good a model is by its metrics."""
    nan = float("nan")
    task.answer(found.get("loss", nan), found.get("accuracy", nan), num_examples)


@dataclass(frozen=True)
class OneClient:
    """The data of one client."""

    examples: Examples
    row: int
    errand: Errand

    @property
    def num_clients(self) -> int:
        """Of the job."""
        return self.errand.num_clients

    @property
    def facts(self) -> Facts:
        """Of the job's data set."""
        return self.errand.facts

    def client(self, row: int) -> Examples:
        """Its own; of others, whom liars may look at, what the job's data set gives them."""
        return self.examples if row == self.row else self._everybody.client(row)

    @cached_property
    def _everybody(self) -> FederatedData:
        """The job's data set, dealt out."""
        from muster.data.store import prepare

        return prepare(self.errand.data, self.errand.seeds["data"])
