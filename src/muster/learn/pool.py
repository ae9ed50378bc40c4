"""A pool of spawned processes that train, measure and evaluate.

A worker has one working model, one accumulator and a memory map of the data. The model goes out once a
version through shared memory; chunks of tasks go out, reports come back, and the accumulators, which are
shared memory too, are added up: nothing model-sized travels for a client.

A worker that dies in a chunk leaves a sum that may be half written: it is dropped, and the chunks that were
in it are trained again by others, to the same bits. So that this is never much, the parent takes a worker's
sum aside ("commits") between two chunks when it holds the work of a minute. What is aside is in memory as
well, two models; the sums of a shorter round are added up in one of the workers' own.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, TypeVar

import numpy as np

from muster.core.errors import TrainingError, UserError
from muster.core.memory import forget
from muster.core.params import Vector
from muster.core.part import dumps
from muster.core.sums import FixedPointSum
from muster.core.tables import MEASURED, REPORT, TASK, Ids, Table, joined, rows

from .crew import NOWHERE, Kept, Recipe, kept_of, mean, spans
from .later import Later
from .learner import Scores, Sent
from .shared import Shelf
from .shares import side_by_side
from .states import Learnt
from .stopwatch import Stopwatch
from .trainer import MEASURED_IN_TRAINING, Trainer
from .worker import NOW, RESULT, Message, Process, Sum, packed, unpacked

COMMIT_SECS = 60.0
"""How much work of a worker may wait to be taken over: what is lost at most, a chunk aside, if it dies."""

DEATHS = 2
"""A chunk that has ended so many workers ends the run."""

SHARES, COHORT_SHARES = 8, 2
"""A worker is handed so small a part of its share of what is left at once. Cohorts are few and like in
length: of smaller parts, messages would be a tenth of the work."""

ROOM = 512 << 20
"""What a worker may hold beyond twice what it held after its first chunk, if the job says nothing."""


CLIENTS = 16
"""Clients that are evaluated together at least: they share what is known of an example."""

V = TypeVar("V")


@dataclass(frozen=True)
class Lifetime:
    """When a worker is replaced by a new one; that changes no bit."""

    max_bytes: int | None = None
    """Memory of its own, no shared pages; None: twice what it held after its first chunk, and ROOM."""
    max_chunks: int = 100_000
    """Chunks that it may train: whatever leaks, leaks no further."""


@dataclass(eq=False)
class Job:
    """A message for any worker, and the answer once there is one."""

    message: Message
    trains: bool = False
    answer: Mapping[str, Any] | None = None
    deaths: list[str] = field(default_factory=list)
    """How the workers ended that were at it."""


class Slot:
    """A place for a worker: the sum stays, processes come and go."""

    def __init__(self, number: int, recipe: Recipe, size: int) -> None:
        self.number, self._chunk = number, max(recipe.chunk, 1)
        self._recipe = dumps(recipe.of(number))
        self.sum = Sum(size)
        self.waiting: list[Job] = []
        """What is in the sum and has not been taken aside."""
        self.since = time.monotonic()
        self.num_failed = 0
        self.start()

    def start(self) -> None:
        """Puts a new process into the place, and sets the sum to zero."""
        forget(self.sum.total)
        self.process = Process(self._recipe, self.sum)
        self.ready = False
        self.job: Job | None = None
        self.num_chunks = self.first_bytes = 0

    def worn(self, own_bytes: int, lifetime: Lifetime) -> str:
        """Why the process should be replaced; empty if it should not."""
        self.num_chunks += 1
        self.first_bytes = self.first_bytes or own_bytes
        most = lifetime.max_bytes or 2 * self.first_bytes + ROOM
        if own_bytes > most:
            return f"it holds {own_bytes / 2**20:.0f} MB, more than {most / 2**20:.0f}"
        if self.num_chunks >= lifetime.max_chunks:
            return f"it has done {self.num_chunks:,} chunks"
        return ""

    def doing(self) -> str:
        """What the worker is at."""
        if self.job is None:
            return "waiting" if self.ready else "starting"
        message = self.job.message
        if "tasks" not in message:
            return "evaluating"
        clients, at = message["tasks"].view(TASK)["client"].tolist(), int(self.sum.at[0])
        if at != NOWHERE:
            clients = clients[at : at + self._chunk]
        named = f"client {clients[0]}" if len(clients) == 1 else f"clients {clients}"
        return f"measuring at {named}" if "measure" in message else f"training {named}"


class Pool:
    """Spawned processes, one thread each.

    Args:
        recipe: From which each builds its trainer.
        num_workers: Processes.
        size: Length of the sums: of all vectors that go up, one after another.
        num_tests: Test examples of the data set.
        overlap: Whether an evaluation may go on while the next version is trained.
        lifetime: When a worker is replaced.
        say: Told of workers that died and of those that were replaced.
        watch: Given the workers' times, and how long they are waited for, if the recipe has them watched.

    Raises:
        TrainingError: A worker could not be built; the text holds its traceback.

    """

    def __init__(
        self,
        recipe: Recipe,
        num_workers: int,
        size: int,
        num_tests: int,
        lifetime: Lifetime | None = None,
        say: Callable[[str], None] = lambda line: None,
        watch: Stopwatch | None = None,
        overlap: bool = False,
    ) -> None:
        self._num_tests = min(recipe.sample or num_tests, num_tests)
        self._chunk, self._overlap = max(recipe.chunk, 1), overlap
        self._recipe = recipe
        self._folder: Trainer | None = None
        self._lifetime, self._say, self._watch = lifetime or Lifetime(), say, watch or Stopwatch()
        self._shelf = Shelf()
        self._jobs: deque[Job] = deque()
        self._later: deque[Job] = deque()
        """What may wait until no other job does."""
        self._merged, self._aside = FixedPointSum(size, recipe.folding.scale), False
        self._peaks = [0] * num_workers
        self._slots = [Slot(number, recipe, size) for number in range(num_workers)]

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Hands out chunks to whoever is free; which worker trains what changes no bit."""
        for slot in self._slots:
            self._commit(slot)  # what another call has trained, whose answers have been given
        self._put(sent)
        for name, vector in now.items():
            self._shelf.put(f"{NOW}/{name}", vector)
        pieces = self._pieces(len(tasks), self._chunk)
        late = np.asarray(staleness, np.int64)
        jobs = [Job({"staleness": late[p], **self._message(tasks[p], kept)}, trains=True) for p in pieces]
        reports = rows(REPORT, len(tasks))
        states: dict[int, bytes] = {}
        with self._watch.at("wait"):
            answers = self._do(jobs)
        for piece, answer in zip(pieces, answers, strict=True):
            reports[piece] = answer["reports"].view(REPORT)
            states |= unpacked(answer)
        return reports, states

    @property
    def together(self) -> int:
        """Two for each worker, so that they end together; of cohorts, one chunk for each."""
        return len(self._slots) * max(self._chunk, 2)

    def learn(self, tasks: Table, sent: Mapping[int, Sent]) -> list[Learnt]:
        """Hands out chunks; the updates come back as they are."""
        self._put(sent)
        pieces = self._pieces(len(tasks), self._chunk)
        jobs = [Job({"learn": True, **self._message(tasks[p], {})}) for p in pieces]
        with self._watch.at("wait"):
            answers = self._do(jobs)
        learnt: list[Learnt] = []
        for piece, answer in zip(pieces, answers, strict=True):
            measured = zip(*(answer[name].tolist() for name in MEASURED_IN_TRAINING), strict=True)
            parts = zip(tasks[piece]["version"].tolist(), answer["up"], measured, strict=True)
            learnt += [Learnt(version, up, *each) for version, up, each in parts]
        return learnt

    def fold(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], learnt: Sequence[Learnt], now: Sent
    ) -> Table:
        """In this process, into the sum that the workers' are added to."""
        if self._folder is None:
            self._folder = self._recipe.trainer(self._merged.total)
        return self._folder.fold_learnt(tasks, staleness, sent, learnt, now)

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """Hands out chunks, as for training."""
        self._put(sent)
        pieces = self._pieces(len(tasks), self._chunk)
        jobs = [Job({"measure": True, **self._message(tasks[p], kept)}) for p in pieces]
        return joined(rows(MEASURED, 0), *(a["measured"].view(MEASURED) for a in self._do(jobs)))

    def evaluate(self, version: int, params: Vector) -> Mapping[str, float]:
        """Hands out spans of the test examples; with `overlap`, when no training waits."""
        parts = [{"span": [span.start, span.stop]} for span in spans(self._num_tests)]
        name = f"{RESULT}/{version}"
        return self._evaluated(
            name, params, parts, lambda told: mean([each["sums"] for each in told], self._num_tests)
        )

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """Hands out clients; with `overlap`, when no training waits."""
        cut = [clients[piece] for piece in self._pieces(len(clients), CLIENTS)]
        parts = [{"clients": part, **packed(kept_of(kept, part))} for part in cut]
        return self._evaluated(f"{RESULT}/{version}/{clients[0]}", params, parts, _scores)

    def _evaluated(
        self,
        name: str,
        params: Vector,
        parts: Sequence[Message],
        made: Callable[[Sequence[Message]], Mapping[str, V]],
    ) -> Mapping[str, V]:
        """What is made of the workers' answers about a model, which lies in shared memory meanwhile."""
        self._shelf.put(name, params)
        shared = {RESULT: self._shelf.told(name.__eq__)[name]}
        jobs = [Job({"shared": shared, **part}) for part in parts]
        self._later.extend(jobs)

        def wait() -> Mapping[str, V]:
            with self._watch.at("evaluate"):
                answers = self._done(jobs)
            self._shelf.take_down(name.__eq__)
            return made(answers)

        return Later(wait, lambda: all(job.answer for job in jobs)) if self._overlap else wait()

    def _pieces(self, count: int, chunk: int = 1) -> list[slice]:
        """Ever fewer tasks, in whole chunks: few messages, and workers that end together."""
        cut, start = [], 0
        while start < count:
            shares = SHARES if chunk == 1 else COHORT_SHARES
            num_chunks = math.ceil((count - start) / (chunk * shares * len(self._slots)))
            cut.append(slice(start, min(start + chunk * num_chunks, count)))
            start = cut[-1].stop
        return cut

    def _put(self, sent: Mapping[int, Sent]) -> None:
        """Puts what travelled with each version into shared memory; `clear` takes it down."""
        for version, vectors in sent.items():
            for name, vector in vectors.items():
                self._shelf.put(f"{version}/{name}", vector)

    def _message(self, tasks: Table, kept: Kept) -> dict[str, Any]:
        """What a worker must know to train `tasks`, or to measure."""
        wanted = {NOW, *(str(version) for version in np.unique(tasks["version"]).tolist())}
        return {
            "tasks": np.ascontiguousarray(tasks).view(np.uint8),
            "shared": self._shelf.told(lambda name: name.partition("/")[0] in wanted),
            **packed(kept_of(kept, tasks["client"])),
        }

    def _do(self, jobs: Sequence[Job]) -> list[Mapping[str, Any]]:
        """Has the workers do these jobs before any that may wait; returns the answers in their order."""
        self._jobs.extend(jobs)
        return self._done(jobs)

    def _done(self, jobs: Sequence[Job]) -> list[Mapping[str, Any]]:
        """Waits until the workers have done these jobs; returns the answers in their order.

        Raises:
            TrainingError: They have been ended.
        """
        if not self._slots and any(job.answer is None for job in jobs):
            raise TrainingError("the workers have been ended before this was done")
        with self._watch.at("start"):
            while not any(slot.ready for slot in self._slots):
                self._listen()
        while any(job.answer is None for job in jobs):
            self._hand_out()
            self._listen()
        return [job.answer for job in jobs if job.answer is not None]

    def _listen(self) -> None:
        """Waits until workers have something to say, and hears them."""
        ready = connection.wait([slot.process.pipe for slot in self._slots])
        for slot in self._slots:
            if slot.process.pipe in ready:
                self._hear(slot)

    def _hand_out(self) -> None:
        """Gives a job to each worker that has none."""
        for slot in self._slots:
            if (waiting := self._jobs or self._later) and slot.ready and slot.job is None:
                slot.job = waiting.popleft()
                slot.sum.at[0] = NOWHERE
                if not slot.process.send(slot.job.message):
                    self._jobs.appendleft(slot.job)  # it never began
                    slot.job = None
                    self._died(slot)

    def _hear(self, slot: Slot) -> None:
        """Takes a worker's answer."""
        answer = slot.process.receive()
        if answer is None:
            return self._died(slot)
        if "error" in answer:
            raise UserError(answer["error"]) if "mistake" in answer else TrainingError(answer["error"])
        self._peaks[slot.number] = max(self._peaks[slot.number], int(answer["rss"]))
        if "watch" in answer:
            self._watch.workers.setdefault(slot.number, Stopwatch()).add(answer["watch"])
        job, slot.job = slot.job, None
        if job is None:
            slot.ready, slot.num_failed = True, 0
            return None
        job.answer = answer
        if job.trains:
            if not slot.waiting:
                slot.since = time.monotonic()
            slot.waiting.append(job)
            if time.monotonic() - slot.since > COMMIT_SECS:
                self._commit(slot)
        why = slot.worn(int(answer["own"]), self._lifetime)
        if why:
            self._say(f"worker {slot.number} is replaced: {why}")
            self._commit(slot)  # the new one begins with a sum of zero
            slot.process.ask_to_end()
            slot.process.end()
            slot.start()
        return None

    def _died(self, slot: Slot) -> None:
        """Replaces a worker that is no more; others train again what was in its sum.

        Raises:
            TrainingError: A chunk has ended too many workers, or a place's workers end before they begin.

        """
        doing, code = slot.doing(), slot.process.exit_code()
        told = f"worker {slot.number} died (exit code {code}) {doing}"
        job = slot.job
        slot.process.end()
        slot.num_failed += not slot.ready
        if slot.num_failed >= DEATHS:
            raise TrainingError(told)
        if job is not None:
            job.deaths.append(told)
            if len(job.deaths) >= DEATHS:
                raise TrainingError("; then ".join(job.deaths))
        again = [] if job is None else [job]
        if job is not None and job.trains:  # its sum may be half written: it is dropped
            again = [*slot.waiting, job]
            slot.waiting = []
        self._commit(slot)  # else it is whole; the new worker begins with a sum of zero
        for lost in again:
            lost.answer = None
        self._jobs.extendleft(reversed(again))
        self._say(f"{told}; a new one takes its place")
        slot.start()

    def _commit(self, slot: Slot) -> None:
        """Takes a worker's sum aside between two of its chunks."""
        if slot.waiting:
            self._merged.merge(slot.sum.total)
            self._aside = True
            slot.waiting = []

    def total(self) -> FixedPointSum:
        """The workers' sums, added up in one of them."""
        holding = [slot for slot in self._slots if slot.waiting]
        if not holding:
            return self._merged
        first = holding[0]
        whole = FixedPointSum(len(first.sum.total), self._merged.scale, first.sum.total)
        for slot in holding[1:]:
            whole.merge(slot.sum.total)
            first.waiting += slot.waiting
            slot.waiting = []
        if self._aside:
            whole.merge(self._merged.total)
            self._aside = False
        return whole

    def clear(self) -> None:
        """Zeroes the sum, and takes down what was sent: the next versions put up their own."""
        for slot in self._slots:
            if slot.waiting:
                forget(slot.sum.total)
                slot.waiting = []
        self._merged.clear()
        self._aside = False
        self._shelf.take_down(lambda name: not name.startswith(f"{RESULT}/"))

    def peaks(self) -> tuple[int, ...]:
        """Peak RSS of each worker, and of those before it, as told with the last chunk."""
        return tuple(self._peaks)

    def close(self) -> None:
        """Ends the processes and gives the shared memory back."""
        for slot in self._slots:
            slot.process.ask_to_end()
        for slot in self._slots:
            slot.process.end()
            memory = slot.sum.memory
            slot.sum.close()
            memory.unlink()
        self._slots = []
        self._shelf.take_down()


def _scores(answers: Sequence[Message]) -> Scores:
    """From the workers' answers about some clients each."""
    return side_by_side([dict(zip(told["names"], told["each"], strict=True)) for told in answers])
