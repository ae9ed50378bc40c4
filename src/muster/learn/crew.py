"""Who does the training: this process, or a pool of spawned ones. The bits are the same.

A worker has one working model, one accumulator and a memory map of the data. The model goes out once a
version through shared memory; chunks of tasks go out, reports come back, and the accumulators, which
are shared memory too, are added up: nothing model-sized travels for a client.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from muster.core.tables import REPORT, TASK, Table, rows
from muster.data.federated import FederatedData

from .learners import make_learner
from .trainer import Folding, Trainer

POOL_AFTER_SECS = 5.0
"""With `workers: auto`, a pool is started once training in this process has taken so long."""

Kept = Mapping[int, bytes]
"""Client -> encoded lasting state."""


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

    def trainer(self, total: Any = None) -> Trainer:
        """A trainer of its own, summing into `total` (i64[size]) if it is given."""
        data = FederatedData.open(Path(self.data))
        learner = make_learner(self.backend, self.model, self.task, data.facts, self.local, self.work)
        return Trainer(
            learner, data, self.folding, FixedPointSum(learner.spec.size, self.folding.scale, total)
        )


class Crew(Protocol):
    """Trains tasks and adds up their updates."""

    def train(
        self, tasks: Table, staleness: Sequence[int], sent: Mapping[int, Vector], kept: Kept
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains TASK rows, no client twice; returns REPORT rows in their order, and new states."""
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
        self, tasks: Table, staleness: Sequence[int], sent: Mapping[int, Vector], kept: Kept
    ) -> tuple[Table, dict[int, bytes]]:
        """One task after another."""
        return _train_chunk(self._trainer, tasks, staleness, sent, kept)

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


def _train_chunk(
    trainer: Trainer, tasks: Table, staleness: Sequence[int], sent: Mapping[int, Vector], kept: Kept
) -> tuple[Table, dict[int, bytes]]:
    reports, states = rows(REPORT, len(tasks)), {}
    for i, task in enumerate(tasks):
        client = int(task["client"])
        before = decode(kept[client]) if client in kept else None
        report, after = trainer.train(task, int(staleness[i]), sent[int(task["version"])], before)
        reports[i] = report[0]
        if after is not None:
            states[client] = after
    return reports, states


class Pool:
    """Spawned processes, one thread each.

    Args:
        recipe: From which each builds its trainer.
        num_workers: Processes.
        size: Length of the model's flat vector.

    Raises:
        TrainingError: A worker could not be built; the text holds its traceback.

    """

    def __init__(self, recipe: Recipe, num_workers: int, size: int) -> None:
        self._size, self._scale = size, recipe.folding.scale
        self._models: dict[int, SharedMemory] = {}
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
        self, tasks: Table, staleness: Sequence[int], sent: Mapping[int, Vector], kept: Kept
    ) -> tuple[Table, dict[int, bytes]]:
        """Hands out chunks to whoever is free; which worker trains what changes no bit."""
        for version, vector in sent.items():
            self._publish(version, vector)
        size = max(1, math.ceil(len(tasks) / (8 * len(self._pipes))))
        chunks = [slice(i, min(i + size, len(tasks))) for i in range(0, len(tasks), size)]
        reports = rows(REPORT, len(tasks))
        states: dict[int, bytes] = {}
        busy: dict[int, slice] = {}
        waiting = list(reversed(chunks))
        free = list(range(len(self._pipes)))
        while waiting or busy:
            while waiting and free:
                worker, chunk = free.pop(), waiting.pop()
                self._send(worker, tasks[chunk], staleness[chunk], sent, kept)
                busy[worker] = chunk
            for pipe in connection.wait([self._pipes[w] for w in busy]):
                worker = self._pipes.index(pipe)  # type: ignore[arg-type]
                chunk = busy.pop(worker)
                answer = self._receive(worker, tasks[chunk])
                reports[chunk] = answer["reports"].view(REPORT)
                states |= {int(k[5:]): v.tobytes() for k, v in answer.items() if k.startswith("kept.")}
                self._rss[worker] = int(answer["rss"])
                free.append(worker)
        return reports, states

    def _publish(self, version: int, vector: Vector) -> None:
        """Puts a version into shared memory, once; those no longer sent are taken down by `clear`."""
        if version not in self._models:
            self._models[version] = SharedMemory(create=True, size=4 * self._size)
            np.ndarray(self._size, np.float32, self._models[version].buf)[:] = vector

    def _send(
        self, worker: int, tasks: Table, staleness: Any, sent: Mapping[int, Vector], kept: Kept
    ) -> None:
        message: dict[str, Any] = {
            "tasks": np.ascontiguousarray(tasks).view(np.uint8),
            "staleness": np.asarray(staleness, np.int64),
            "models": {str(v): self._models[v].name for v in np.unique(tasks["version"]).tolist()},
        }
        ids = set(tasks["client"].tolist())
        message |= {f"kept.{c}": np.frombuffer(s, np.uint8) for c, s in kept.items() if c in ids}
        self._pipes[worker].send_bytes(encode(message))

    def _receive(self, worker: int, tasks: Table) -> dict[str, Any]:
        try:
            answer = decode(self._pipes[worker].recv_bytes())
        except (EOFError, ConnectionError):
            self._processes[worker].join(5)
            code, ids = self._processes[worker].exitcode, tasks["client"].tolist()
            raise TrainingError(f"worker {worker} died (exit code {code}) training clients {ids}") from None
        if "error" in answer:
            raise UserError(answer["error"]) if "mistake" in answer else TrainingError(answer["error"])
        return answer

    def total(self) -> FixedPointSum:
        """The workers' sums, added up."""
        self._merged.clear()
        for memory in self._sums:
            self._merged.merge(np.ndarray(self._size, np.int64, memory.buf))
        return self._merged

    def clear(self) -> None:
        """Zeroes all sums, and takes down the models: the next versions publish their own."""
        for memory in self._sums:
            np.ndarray(self._size, np.int64, memory.buf)[:] = 0
        for memory in self._models.values():
            memory.close()
            memory.unlink()
        self._models.clear()

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
        for memory in [*self._sums, *self._models.values()]:
            memory.close()
            memory.unlink()
        self._sums, self._models, self._pipes = [], {}, []


def _work(pipe: connection.Connection, recipe: str, sums: str, size: int) -> None:
    """The life of a worker process: chunks in, reports out, until the pipe closes."""
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    memory = SharedMemory(sums)
    trainer: Trainer | None = None
    models: dict[str, SharedMemory] = {}
    while True:
        try:
            message = decode(pipe.recv_bytes())
        except (EOFError, OSError):
            break
        if "end" in message:
            break
        try:
            trainer = trainer or loads(recipe).trainer(np.ndarray(size, np.int64, memory.buf))
            names = set(message["models"].values())
            for gone in set(models) - names:
                models.pop(gone).close()
            for name in names - set(models):
                models[name] = SharedMemory(name)
            sent = {int(v): np.ndarray(size, np.float32, models[n].buf) for v, n in message["models"].items()}
            kept = {int(k[5:]): v.tobytes() for k, v in message.items() if k.startswith("kept.")}
            tasks = message["tasks"].view(TASK)
            reports, states = _train_chunk(trainer, tasks, message["staleness"].tolist(), sent, kept)
            answer: dict[str, Any] = {
                "reports": reports.view(np.uint8),
                "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            answer |= {f"kept.{c}": np.frombuffer(s, np.uint8) for c, s in states.items()}
            del sent  # views of shared memory, which could not be closed while they live
        except UserError as error:
            answer = {"error": str(error), "mistake": True}
        except TrainingError as error:
            answer = {"error": str(error)}
        except Exception:
            answer = {"error": f"a worker failed:\n{traceback.format_exc()}"}
        pipe.send_bytes(encode(answer))
    trainer = None  # it holds a view of the sum, which could not be closed while it lives
    for shared in [memory, *models.values()]:
        with suppress(BufferError):
            shared.close()


class Automatic:
    """Begins in this process, and starts a pool when training turns out to take long.

    How many workers there are changes no bit of the result, so timing may decide it.
    """

    def __init__(
        self, inline: Inline, make_pool: Callable[[], Pool], max_workers: int, say: Callable[[str], None]
    ) -> None:
        self._inline, self._make_pool, self._max, self._say = inline, make_pool, max_workers, say
        self._crew: Inline | Pool = inline
        self._spent = 0.0

    def train(
        self, tasks: Table, staleness: Sequence[int], sent: Mapping[int, Vector], kept: Kept
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains with whoever is there."""
        begin = time.perf_counter()
        result = self._crew.train(tasks, staleness, sent, kept)
        self._spent += time.perf_counter() - begin
        return result

    def total(self) -> FixedPointSum:
        """The sum of whoever trained."""
        return self._crew.total()

    def clear(self) -> None:
        """Zeroes the sum; between versions is the time to change hands."""
        self._crew.clear()
        if self._crew is self._inline and self._max > 1 and self._spent > POOL_AFTER_SECS:
            self._say(f"workers: {self._max} from here on (training in one process took {self._spent:.1f} s)")
            self._crew = self._make_pool()

    def peak_rss_bytes(self) -> int:
        """Of the pool, if there is one."""
        return self._crew.peak_rss_bytes()

    def close(self) -> None:
        """Ends the pool, if there is one."""
        self._crew.close()
