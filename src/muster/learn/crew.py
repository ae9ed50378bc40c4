"""Who does the training: this process, or a pool of spawned ones. The bits are the same.

A worker has one working model, one accumulator and a memory map of the data. The model goes out once a
version through shared memory; chunks of tasks go out, reports come back, and the accumulators, which
are shared memory too, are added up: nothing model-sized travels for a client.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from muster.core.errors import TrainingError, UserError
from muster.core.params import Vector
from muster.core.part import dumps, loads
from muster.core.store import decode, encode
from muster.core.sums import FixedPointSum
from muster.core.tables import MEASURED, REPORT, TASK, Ids, Table, joined, rows
from muster.data.federated import FederatedData

from .learner import Gradients, Sent
from .learners import make_learner
from .trainer import Folding, Trainer

SPAN = 1000
"""Test examples that a worker evaluates in one go."""

Kept = Mapping[int, bytes]
"""Client -> encoded lasting state."""

NOW, RESULT = "now", "result"
"""Places of shared arrays beside the versions' numbers: what a rule looks at, and what is evaluated."""

Described = list[Any]
"""A shared array: the memory's name, the kind of its numbers, its shape."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker process needs to build its trainer; goes through JSON."""

    backend: str
    model: Any
    task: Any
    local: Any
    work: Any
    folding: Folding
    data: str
    """Path of the prepared data."""
    chunk: int = 0
    """How many clients train together; 0: one after another."""
    gradients: Gradients = "plain"
    """How the weights' gradients are made."""

    def trainer(self, total: Any = None) -> Trainer:
        """A trainer of its own, summing into `total` (i64[U · size]) if it is given."""
        data = FederatedData.open(Path(self.data))
        learner = make_learner(
            self.backend, self.model, self.task, data.facts, self.local, self.work, self.gradients
        )
        size = len(self.local.up) * learner.spec.size
        total = FixedPointSum(size, self.folding.scale, total)
        return Trainer(learner, data, self.folding, total, self.chunk)


class Crew(Protocol):
    """Trains tasks and adds up their updates."""

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains TASK rows, no client twice and the longest first; returns REPORT rows in their order, and
        new states.

        `sent` is what travelled with each version, `now` what the combination's rule may look at.
        """
        ...

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """MEASURED rows of TASK rows, in their order: how good the model sent is on a client's examples."""
        ...

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """Means of the metrics of model `params` over all test examples."""
        ...

    def total(self) -> FixedPointSum:
        """The sum of all updates trained since `clear`."""
        ...

    def clear(self) -> None:
        """Starts the sum again from zero."""
        ...

    def peak_rss_bytes(self) -> int:
        """Peak memory of the workers, this process not counted."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class Inline:
    """Training in this process."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """One task after another, or one chunk."""
        reports = rows(REPORT, len(tasks))
        states: dict[int, bytes] = {}
        for chunk in _chunks(len(tasks), self._trainer.chunk or len(tasks)):
            part = tasks[chunk]
            reports[chunk], new = _train_chunk(
                self._trainer, part, staleness[chunk], sent, _of(kept, part), now
            )
            states |= new
        return reports, states

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """One client after another."""
        return _measure_chunk(self._trainer, tasks, sent, kept)

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """One span of test examples after another."""
        trainer, count = self._trainer, len(self._trainer.data.test)
        return _mean([_evaluate_span(trainer, params, span) for span in _spans(count)], count)

    def total(self) -> FixedPointSum:
        """The trainer's own sum."""
        return self._trainer.total

    def clear(self) -> None:
        """Zeroes it."""
        self._trainer.total.clear()

    def peak_rss_bytes(self) -> int:
        """Nothing beside this process."""
        return 0

    def close(self) -> None:
        """Nothing to end."""


def _chunks(count: int, size: int) -> list[slice]:
    """Tasks in chunks of `size`; they come with those that take most steps first."""
    return [slice(start, min(start + size, count)) for start in range(0, count, max(size, 1))]


def _of(kept: Kept, tasks: Table) -> Kept:
    """What the clients of these tasks have kept."""
    if not kept:
        return kept
    return {client: kept[client] for client in tasks["client"].tolist() if client in kept}


def _train_chunk(
    trainer: Trainer, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
) -> tuple[Table, dict[int, bytes]]:
    if trainer.chunk > 0:
        before = {client: decode(state) for client, state in kept.items()}
        return trainer.train_together(tasks, staleness, sent, before, now)
    reports, states = rows(REPORT, len(tasks)), {}
    for i, task in enumerate(tasks):
        client = int(task["client"])
        mine = decode(kept[client]) if client in kept else None
        report, after = trainer.train(task, int(staleness[i]), sent[int(task["version"])], mine, now)
        reports[i] = report[0]
        if after is not None:
            states[client] = after
    return reports, states


def _measure_chunk(trainer: Trainer, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
    found = rows(MEASURED, len(tasks))
    for i, task in enumerate(tasks):
        client = int(task["client"])
        mine = decode(kept[client]) if client in kept else None
        found[i] = trainer.measure(task, sent[int(task["version"])], mine)[0]
    return found


def _spans(count: int) -> list[slice]:
    """Test examples in fixed spans: the same sums, whoever evaluates which."""
    return [slice(start, min(start + SPAN, count)) for start in range(0, count, SPAN)]


def _evaluate_span(trainer: Trainer, params: Vector, span: slice) -> dict[str, float]:
    """Sums of the metrics over a span of the test examples."""
    means = trainer.learner.evaluate(params, trainer.data.test.slice(span.start, span.stop))
    return {name: mean * (span.stop - span.start) for name, mean in means.items()}


def _mean(sums: Sequence[Mapping[str, float]], count: int) -> dict[str, float]:
    names = sums[0] if sums else {}
    return {name: math.fsum(part[name] for part in sums) / count for name in names}


class Pool:
    """Spawned processes, one thread each.

    Args:
        recipe: From which each builds its trainer.
        num_workers: Processes.
        size: Length of the sums: of all vectors that go up, one after another.
        num_tests: Test examples of the data set.

    Raises:
        TrainingError: A worker could not be built; the text holds its traceback.

    """

    def __init__(self, recipe: Recipe, num_workers: int, size: int, num_tests: int) -> None:
        self._size, self._scale, self._num_tests = size, recipe.folding.scale, num_tests
        self._chunk_size = recipe.chunk
        self._shared: dict[str, tuple[SharedMemory, Described]] = {}
        self._sums = [SharedMemory(create=True, size=8 * size) for _ in range(num_workers)]
        self._merged = FixedPointSum(size, self._scale)
        self._rss = [0] * num_workers
        spawn = get_context("spawn")
        self._pipes: list[connection.Connection] = []
        self._processes = []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        before = {name: os.environ.get(name) for name in threads}
        os.environ.update(threads)  # a spawned process reads them before it loads a maths library
        try:
            for memory in self._sums:
                ours, theirs = spawn.Pipe()
                process = spawn.Process(
                    target=_work, args=(theirs, dumps(recipe), memory.name, size), daemon=True
                )
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Hands out chunks to whoever is free; which worker trains what changes no bit."""
        self._publish_all(sent)
        for name, vector in now.items():
            self._publish(f"{NOW}/{name}", vector)
        chunks = _chunks(len(tasks), self._chunk_size or self._even(len(tasks)))
        messages = (self._chunk(tasks[chunk], staleness[chunk], kept) for chunk in chunks)
        reports = rows(REPORT, len(tasks))
        states: dict[int, bytes] = {}
        for i, answer in self._share_out(messages):
            reports[chunks[i]] = answer["reports"].view(REPORT)
            states |= {int(k[5:]): v.tobytes() for k, v in answer.items() if k.startswith("kept.")}
        return reports, states

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """Hands out chunks, as for training."""
        self._publish_all(sent)
        chunks = _chunks(len(tasks), self._even(len(tasks)))
        asked = {"measure": True}
        messages = (asked | self._chunk(tasks[chunk], np.zeros(0), kept) for chunk in chunks)
        answers = dict(self._share_out(messages))
        found = (answers[i]["measured"].view(MEASURED) for i in range(len(chunks)))
        return joined(rows(MEASURED, 0), *found)

    def _even(self, count: int) -> int:
        """Tasks of a chunk such that workers end together."""
        return math.ceil(count / (8 * len(self._pipes)))

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """Hands out spans of the test examples."""
        name = f"{RESULT}/{version}"
        self._publish(name, params)
        spans, shared = _spans(self._num_tests), {RESULT: self._shared[name][1]}
        messages = ({"span": [span.start, span.stop], "shared": shared} for span in spans)
        answers = dict(self._share_out(messages))
        return _mean([answers[i]["sums"] for i in range(len(spans))], self._num_tests)

    def _share_out(self, messages: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Gives each message to a worker that is free; yields their numbers and answers as they come."""
        waiting = enumerate(messages)
        free = list(range(len(self._pipes)))
        busy: dict[int, tuple[int, dict[str, Any]]] = {}
        while True:
            for i, message in islice(waiting, len(free)):
                worker = free.pop()
                try:
                    self._pipes[worker].send_bytes(encode(message))
                except OSError:
                    raise self._died(worker, message) from None
                busy[worker] = i, message
            if not busy:
                return
            for pipe in connection.wait([self._pipes[worker] for worker in busy]):
                worker = self._pipes.index(pipe)  # type: ignore[arg-type]
                i, message = busy.pop(worker)
                answer = self._receive(worker, message)
                self._rss[worker] = int(answer["rss"])
                free.append(worker)
                yield i, answer

    def _publish_all(self, sent: Mapping[int, Sent]) -> None:
        """Puts what travelled with each version into shared memory."""
        for version, vectors in sent.items():
            for name, vector in vectors.items():
                self._publish(f"{version}/{name}", vector)

    def _publish(self, name: str, array: Any) -> None:
        """Puts an array into shared memory, once; what is no longer sent is taken down by `clear`."""
        if name not in self._shared:
            array = np.asarray(array)
            memory = SharedMemory(create=True, size=max(array.nbytes, 1))
            np.ndarray(array.shape, array.dtype, memory.buf)[...] = array
            self._shared[name] = memory, [memory.name, array.dtype.str, list(array.shape)]

    def _chunk(self, tasks: Table, staleness: Any, kept: Kept) -> dict[str, Any]:
        """The message that has a worker train `tasks`, or measure."""
        wanted = {NOW, *(str(version) for version in np.unique(tasks["version"]).tolist())}
        return {
            "tasks": np.ascontiguousarray(tasks).view(np.uint8),
            "staleness": np.asarray(staleness, np.int64),
            "shared": {k: told for k, (_, told) in self._shared.items() if k.partition("/")[0] in wanted},
            **{f"kept.{c}": np.frombuffer(s, np.uint8) for c, s in _of(kept, tasks).items()},
        }

    def _receive(self, worker: int, message: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = decode(self._pipes[worker].recv_bytes())
        except (EOFError, ConnectionError):
            raise self._died(worker, message) from None
        if "error" in answer:
            raise UserError(answer["error"]) if "mistake" in answer else TrainingError(answer["error"])
        return answer

    def _died(self, worker: int, message: Mapping[str, Any]) -> TrainingError:
        """The error of a worker that is no more, and what it was to do."""
        self._processes[worker].join(5)
        code, doing = self._processes[worker].exitcode, "evaluating"
        if "tasks" in message:
            verb = "measuring at" if "measure" in message else "training"
            doing = f"{verb} clients {message['tasks'].view(TASK)['client'].tolist()}"
        return TrainingError(f"worker {worker} died (exit code {code}) {doing}")

    def total(self) -> FixedPointSum:
        """The workers' sums, added up."""
        self._merged.clear()
        for memory in self._sums:
            self._merged.merge(np.ndarray(self._size, np.int64, memory.buf))
        return self._merged

    def clear(self) -> None:
        """Zeroes all sums, and takes down what is shared: the next versions publish their own."""
        for memory in self._sums:
            np.ndarray(self._size, np.int64, memory.buf)[:] = 0
        for memory, _ in self._shared.values():
            memory.close()
            memory.unlink()
        self._shared.clear()

    def peak_rss_bytes(self) -> int:
        """The workers' peaks, as they told with their last chunk."""
        return sum(self._rss)

    def close(self) -> None:
        """Ends the processes and gives the shared memory back."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send_bytes(encode({"end": True}))
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        for memory in [*self._sums, *(memory for memory, _ in self._shared.values())]:
            memory.close()
            memory.unlink()
        self._sums, self._shared, self._pipes = [], {}, []


def _work(pipe: connection.Connection, recipe: str, sums: str, size: int) -> None:
    """The life of a worker process: chunks in, reports out, until the pipe closes."""
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    memory = SharedMemory(sums)
    trainer: Trainer | None = None
    shared: dict[str, SharedMemory] = {}
    while True:
        try:
            message = decode(pipe.recv_bytes())
        except (EOFError, OSError):
            break
        if "end" in message:
            break
        try:
            trainer = trainer or loads(recipe).trainer(np.ndarray(size, np.int64, memory.buf))
            told: dict[str, Described] = message["shared"]
            names = {name for name, _, _ in told.values()}
            for gone in set(shared) - names:
                shared.pop(gone).close()
            for name in names - set(shared):
                shared[name] = SharedMemory(name)
            arrays = {k: np.ndarray(shape, kind, shared[name].buf) for k, (name, kind, shape) in told.items()}
            if "span" in message:
                answer: dict[str, Any] = {
                    "sums": _evaluate_span(trainer, arrays[RESULT], slice(*message["span"]))
                }
            else:
                kept = {int(k[5:]): v.tobytes() for k, v in message.items() if k.startswith("kept.")}
                tasks, late = message["tasks"].view(TASK), message["staleness"]
                sent = {int(v): _within(arrays, str(v)) for v in np.unique(tasks["version"])}
                if "measure" in message:
                    answer = {"measured": _measure_chunk(trainer, tasks, sent, kept).view(np.uint8)}
                else:
                    reports, states = _train_chunk(trainer, tasks, late, sent, kept, _within(arrays, NOW))
                    answer = {"reports": reports.view(np.uint8)}
                    answer |= {f"kept.{c}": np.frombuffer(s, np.uint8) for c, s in states.items()}
                del sent
            answer["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            del arrays  # views of shared memory, which could not be closed while they live
        except UserError as error:
            answer = {"error": str(error), "mistake": True}
        except TrainingError as error:
            answer = {"error": str(error)}
        except Exception:
            answer = {"error": f"a worker failed:\n{traceback.format_exc()}"}
        try:
            pipe.send_bytes(encode(answer))
        except OSError:  # the parent was killed: nobody waits for the answer
            break
    trainer = None  # it holds a view of the sum, which could not be closed while it lives
    for block in [memory, *shared.values()]:
        with suppress(BufferError):
            block.close()


def _within(arrays: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The arrays of a place, by name."""
    return {k.partition("/")[2]: array for k, array in arrays.items() if k.partition("/")[0] == place}
