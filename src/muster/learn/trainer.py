"""One worker's share of the data plane: train a task, gate what comes out, fold it into a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Vectors
from muster.core.errors import MusterError, TrainingError
from muster.core.examples import Examples
from muster.core.randomness import Draws, keys, rng
from muster.core.store import decode
from muster.core.sums import FixedPointSum
from muster.core.tables import MEASURED, REPORT, Ids, Table, rows
from muster.data.federated import FederatedData

from .accumulator import Accumulator, Folding
from .learner import CohortLearner, Learner, Matrix, Scores, Sent, Stack, Together
from .measuring import measured
from .states import ABOUT, UNSENT, Learnt, State, stacked, worths
from .uploads import Uploads

PERSONAL = "personal"
"""In a client's lasting state: the entries of the model that stay with it, one after another."""

MEASURED_IN_TRAINING = ("num_steps", "loss", "loss_sq_mean")
"""What is told of training beside the update."""

ROOM_BYTES = 1 << 20
"""Small updates are folded together, so many bytes at once; it changes no bit."""
ROOM_BYTES_THERE = 256 << 20
"""The same on a GPU, where each fold is waited for."""


@dataclass
class Trainer:
    """Trains tasks one after another with one working model and one accumulator.

    Args:
        learner: The working model.
        data: What the clients hold.
        folding: How updates are weighed and added.
        total: The sum that this worker adds to: of the vectors that go up, one after another.
        chunk: How many clients train together; 0: one after another.
        in_place: Whether an update may be lost when the learner does something else: then a large one may
            take the place of the model that it was made of.

    """

    learner: Learner
    data: FederatedData
    folding: Folding
    total: FixedPointSum
    chunk: int = 0
    in_place: bool = False
    up: Stack = field(init=False)

    def __post_init__(self) -> None:
        folding, size = self.folding, self.learner.spec.size
        shape = (1, len(folding.local.up), size)
        looks = folding.local.needs_loss or folding.attack is not None  # before the update is folded
        lone = shape[1] == 1 and not self.chunk and 8 * size > ROOM_BYTES
        lent = self.learner.lent() if self.in_place and lone and not looks else None
        self.up = np.zeros(shape, np.float32) if lent is None else lent.reshape(shape)

    @cached_property
    def personal(self) -> npt.NDArray[np.int64]:
        """Where the entries that stay at the client lie in the model's vector."""
        spec = self.learner.spec
        return spec.places(self.folding.local.personal(spec))

    @cached_property
    def mask(self) -> npt.NDArray[np.float32]:
        """1 where an entry stays at the client, f32[trained]."""
        mask = self.learner.spec.zeros()
        mask[self.personal] = 1.0
        return mask[: self.learner.spec.trained]

    @cached_property
    def accumulator(self) -> Accumulator:
        """Where updates go."""
        return Accumulator(self.folding, self.learner.spec, self.total, self.learner.passes)

    @cached_property
    def uploads(self) -> Uploads:
        """What becomes of updates before the gate."""
        folding = self.folding
        return Uploads(folding.compress, folding.attack, folding.seed, self.learner, self.data, self.personal)

    def train(
        self,
        tasks: Table,
        staleness: npt.NDArray[np.int64],
        sent: Mapping[int, Sent],
        kept: Mapping[int, bytes],
        now: Sent,
        at: npt.NDArray[np.int64],
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains tasks, no client twice, and folds their updates, unless the gate refuses them.

        Args:
            tasks: TASK rows.
            staleness: i64[K], versions between the model sent and the one that each update moves.
            sent: What the clients got, by version, then by name: the `model` f32[size], others f32[trained].
            kept: The clients' lasting states, encoded, of those that have one.
            now: What the combination's rule may look at.
            at: i64[1], told which row it is at.

        Returns:
            REPORT rows, and the clients' new lasting states that are to be kept.

        Raises:
            TrainingError: Training raised; names the client and the task.

        """
        reports, new = rows(REPORT, len(tasks)), dict[int, bytes]()
        with self.learner.holding():
            for start in range(0, len(tasks), self.room):
                part = slice(start, start + self.room)
                at[0] = start
                up = self.rows_of_up(len(tasks[part]), self.there)
                done, states = self.trained(tasks[part], sent, kept, at, up)
                told = self.fold(tasks[part], staleness[part], done, up, states, now)
                reports[part] = told
                new |= self.encoded(tasks[part], states, told["refused"].tolist())
        if self.there is not None:
            self.there.bring()
        return reports, new

    @cached_property
    def there(self) -> Any:
        """Who gates and adds updates on the learner's own device, if nothing but the gate looks at them."""
        folding = self.folding
        seen = folding.attack is not None or folding.compress is not None or len(self.personal) > 0
        seen |= folding.combine.shifts or folding.combine.needs_all
        return None if seen else self.learner.summing(self.total)

    @cached_property
    def near(self) -> FederatedData:
        """The data, where the learner trains."""
        near: FederatedData = self.learner.place(self.data)
        return near

    @cached_property
    def room(self) -> int:
        """Tasks whose updates are in memory at once: a chunk; else as many as fit ROOM_BYTES."""
        room = ROOM_BYTES if self.there is None else ROOM_BYTES_THERE
        return self.chunk or max(room // max(self.up[0].nbytes, 1), 1)

    def rows_of_up(self, count: int, there: Any = None) -> Stack:
        """The first rows of `up`, which grows if need be; `there`, as many of its own."""
        if there is not None:
            up: Stack = there.rows(count, *self.up.shape[1:])
            return up
        if len(self.up) < count:
            self.up = np.zeros((count, *self.up.shape[1:]), np.float32)
        return self.up[:count]

    def draws(self, tasks: Table) -> Draws:
        """Each task's only randomness."""
        return Draws(keys(self.folding.seed, "train", tasks["client"].tolist(), tasks["attempt"].tolist()))

    def starts(
        self,
        clients: Sequence[int],
        versions: Sequence[int],
        sent: Mapping[int, Sent],
        kept: Mapping[int, bytes],
    ) -> list[State]:
        """What tasks start from."""
        if not kept:
            plain = {version: self.received(sent[version], None) for version in set(versions)}
            return [State(*plain[version]) for version in versions]
        states = []
        for client, version in zip(clients, versions, strict=True):
            before = decode(kept[client]) if client in kept else None
            received, mine, about = self.received(sent[version], before)
            states.append(State(received, mine, about, unsent=(before or {}).get(UNSENT)))
        return states

    def trained(
        self, tasks: Table, sent: Mapping[int, Sent], kept: Mapping[int, bytes], at: Ids, up: Stack
    ) -> tuple[Together, list[State]]:
        """Trains TASK rows into `up`, f32[K, U, size]; see `train`."""
        if self.chunk > 0:
            return self.trained_together(tasks, sent, kept, up)
        return self.trained_one_by_one(tasks, sent, kept, at, up)

    def trained_one_by_one(
        self, tasks: Table, sent: Mapping[int, Sent], kept: Mapping[int, bytes], at: Ids, up: Stack
    ) -> tuple[Together, list[State]]:
        """`trained`, one after another; `at` is told which."""
        clients, attempts, first = tasks["client"].tolist(), tasks["attempt"].tolist(), int(at[0])
        states = self.starts(clients, tasks["version"].tolist(), sent, kept)
        draws, measured = self.draws(tasks), []
        keeps = len(self.personal) > 0 or self.folding.local.keeps
        for i, (state, steps) in enumerate(zip(states, tasks["steps"].tolist(), strict=True)):
            at[0] = first + i
            try:
                examples = self.examples(clients[i], attempts[i])
                done = self.learner.train(state.received, examples, draws[i], up[i], state.mine, steps)
                if keeps or done.kept is not None:
                    state.lasting = self.lasting(done.num_steps, done.kept, state.received, up[i], state.mine)
            except MusterError:
                raise
            except (Exception, SystemExit) as error:  # a user's exit() must not pass for the end of the run
                raise self.failed(tasks[i], error) from error
            measured.append((done.num_steps, done.loss, done.loss_sq_mean))
        counts, loss, squared = zip(*measured, strict=True)
        return Together(np.array(counts), np.array(loss), np.array(squared), ()), states

    def examples(self, client: int, attempt: int) -> Examples:
        """What a client trains on."""
        if self.folding.attack is None:
            return self.near.client(client)
        return self.uploads.examples(client, attempt)

    def encoded(self, tasks: Table, states: Sequence[State], refused: Sequence[int]) -> dict[int, bytes]:
        """The clients' new lasting states, of those that have one to be kept.

        Raises:
            TrainingError: One cannot be kept.
        """
        new: dict[int, bytes] = {}
        if not any(state.leaves for state in states):
            return new
        for i, (client, state) in enumerate(zip(tasks["client"].tolist(), states, strict=True)):
            try:
                told = state.encoded(bool(refused[i]))
            except Exception as error:
                raise self.failed(tasks[i], error) from error
            if told is not None:
                new[client] = told
        return new

    def failed(self, task: Table, error: BaseException) -> TrainingError:
        """Says whose training has failed."""
        client = int(task["client"])
        where = f"client {client}, task {int(task['ticket'])}, {int(self.data.num_examples[client])} examples"
        return TrainingError(f"training failed at {where}: {type(error).__name__}: {error}")

    def trained_together(
        self, tasks: Table, sent: Mapping[int, Sent], kept: Mapping[int, bytes], up: Stack
    ) -> tuple[Together, list[State]]:
        """`trained`, as one cohort."""
        learner: CohortLearner = self.learner  # type: ignore[assignment]
        clients = tasks["client"].tolist()
        states = self.starts(clients, tasks["version"].tolist(), sent, kept)
        examples, owned = self.near.clients(clients)
        vectors = stacked([state.received for state in states])
        before, steps = [state.mine for state in states], tasks["steps"].astype(np.int64)
        try:
            done = learner.train_together(vectors, examples, owned, self.draws(tasks), up, before, steps)
        except MusterError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise TrainingError(f"training clients {clients} together failed: {what}") from error
        if self.uploads.poisons:
            self.poisoned(tasks, done, up, states)
        if len(self.personal) or self.folding.local.keeps:
            for i, state in enumerate(states):
                state.lasting = self.lasting(
                    int(done.num_steps[i]), done.kept[i], state.received, up[i], state.mine
                )
        return done, states

    def learn(self, tasks: Table, sent: Mapping[int, Sent], at: npt.NDArray[np.int64]) -> list[Learnt]:
        """Trains TASK rows as `train` does; nothing is folded or kept of clients."""
        learnt: list[Learnt] = []
        for start in range(0, len(tasks), self.room):
            at[0], part = start, tasks[start : start + self.room]
            up = self.rows_of_up(len(part))
            done, _ = self.trained(part, sent, {}, at, up)
            of = part["version"].tolist()
            learnt += [Learnt(of[i], vectors.copy(), *done.of(i)) for i, vectors in enumerate(up)]
        return learnt

    def fold_learnt(
        self,
        tasks: Table,
        staleness: npt.NDArray[np.int64],
        sent: Mapping[int, Sent],
        learnt: Sequence[Learnt],
        now: Sent,
    ) -> Table:
        """Folds what `learn` has come to, as if it were trained now; returns REPORT rows."""
        states = [State(*self.received(sent[version], None)) for version in tasks["version"].tolist()]
        steps, loss, squared = ([getattr(one, name) for one in learnt] for name in MEASURED_IN_TRAINING)
        done = Together(np.array(steps), np.array(loss), np.array(squared), ())
        return self.fold(tasks, staleness, done, np.stack([one.up for one in learnt]), states, now)

    def poisoned(self, tasks: Table, done: Together, up: Stack, states: Sequence[State]) -> None:
        """Trains the liars of a cohort once more, on what they make of their examples."""
        for i, (client, attempt) in enumerate(zip(tasks["client"].tolist(), tasks["attempt"], strict=True)):
            if client in self.uploads.liars:
                draw, steps = rng(self.folding.seed, "train", client, int(attempt)), int(tasks["steps"][i])
                examples = self.uploads.examples(client, int(attempt))
                alone = self.learner.train(states[i].received, examples, draw, up[i], states[i].mine, steps)
                done.loss[i], done.loss_sq_mean[i] = alone.loss, alone.loss_sq_mean

    def received(
        self, sent: Sent, kept: Mapping[str, Any] | None
    ) -> tuple[Sent, Mapping[str, Any] | None, Vectors]:
        """What a client trains from: what it was sent, with its own entries in their places.

        Returns:
            The vectors; what the client's rule has kept, and what the server's rule has of the client.

        """
        if self.folding.local.needs_mask:
            sent = {**sent, "personal": self.mask}
        if kept is None:
            return sent, None, {}
        about = {name.removeprefix(ABOUT): v for name, v in kept.items() if name.startswith(ABOUT)}
        mine = {name: v for name, v in kept.items() if name != UNSENT and not name.startswith(ABOUT)}
        if len(self.personal) and PERSONAL in mine:
            model = np.array(sent["model"])
            model[self.personal] = mine.pop(PERSONAL)
            sent = {**sent, "model": model}
        return sent, mine or None, about

    def lasting(
        self,
        num_steps: int,
        kept: Mapping[str, Any] | None,
        received: Sent,
        up: Matrix,
        mine: Mapping[str, Any] | None,
    ) -> Mapping[str, Any] | None:
        """The client's lasting state after a task. Its own entries are taken out of the update, `up`."""
        if not len(self.personal) or num_steps == 0:
            return kept
        whole = {**(mine or {}), **(kept or {})}
        whole[PERSONAL] = received["model"][self.personal] + up[0, self.personal]
        up[:, self.personal] = 0.0
        return whole

    def fold(
        self,
        tasks: Table,
        staleness: npt.NDArray[np.int64],
        done: Together,
        up: Stack,
        states: Sequence[State],
        now: Sent,
    ) -> Table:
        """Reports, gates, transforms, weighs and adds the updates of some tasks.

        Args:
            tasks: TASK rows.
            staleness: i64[K].
            done: What training measured.
            up: The vectors, f32[K, U, size]; they may be changed.
            states: What the clients received and what is kept of them; what the rule remembers is changed.
            now: What the rule may look at.

        Returns:
            REPORT rows.

        """
        folding, local = self.folding, self.folding.local
        if folding.attack is not None or folding.compress is not None:
            for task, vectors, state in zip(tasks, up, states, strict=True):
                self.uploads.forge(task, state.received, vectors)
                state.unsent = self.uploads.written(task, vectors, state.unsent)
        reports = rows(
            REPORT,
            len(tasks),
            ticket=tasks["ticket"],
            client=tasks["client"],
            num_examples=self.data.num_examples[tasks["client"]],
            num_steps=done.num_steps,
            staleness=staleness,
            loss=done.loss,
            loss_sq_mean=done.loss_sq_mean,
            loss_before=self.losses_before(tasks, states),
            a_norm=worths(local, done.num_steps),
        )
        where: Any = up
        if isinstance(where, np.ndarray):
            self.accumulator.gather(reports, up, states, now)
        else:
            self.accumulator.gather_there(reports, where, self.there)
        return reports

    def losses_before(self, tasks: Table, states: Sequence[State]) -> npt.NDArray[np.float64]:
        """Losses of the models received, over all of each client's examples; NaN where nobody asks."""
        if not self.folding.local.needs_loss:
            return np.full(len(tasks), np.nan)
        return self.measured(tasks["client"].tolist(), states)["loss"]

    def measured(self, clients: Sequence[int], states: Sequence[State]) -> Scores:
        """Of the models that clients received; see `measuring.measured`."""
        models = [state.received["model"] for state in states]
        return measured(self.learner, self.near, clients, models, together=self.chunk > 0)

    def measure(
        self, tasks: Table, sent: Mapping[int, Sent], kept: Mapping[int, bytes], at: npt.NDArray[np.int64]
    ) -> Table:
        """MEASURED rows of TASK rows: how good the model sent is on each client's own examples.

        See `train`; the clients' own entries are in their places.
        """
        found, size = rows(MEASURED, len(tasks)), max(self.chunk, 1)
        for start in range(0, len(tasks), size):
            at[0], part = start, tasks[start : start + size]
            clients = part["client"].tolist()
            states = self.starts(clients, part["version"].tolist(), sent, kept)
            found[start : start + size] = rows(
                MEASURED,
                len(part),
                ticket=part["ticket"],
                client=clients,
                num_examples=self.data.num_examples[clients],
                **self.measured(clients, states),
            )
        return found
