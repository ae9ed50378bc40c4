"""A worker process: the life it leads (chunks in, reports out), and the parent's hold on it."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from muster.core.errors import TrainingError, UserError
from muster.core.examples import Examples
from muster.core.memory import own_bytes, peak_rss_bytes, trim
from muster.core.part import loads
from muster.core.spawn import MAIN, without_main
from muster.core.store import decode, encode
from muster.core.tables import TASK, Ids

from .crew import Kept, Recipe, evaluate_span, examined
from .shared import Described
from .shares import Shares
from .stopwatch import Stopwatch
from .trainer import MEASURED_IN_TRAINING, Trainer

NOW, RESULT = "now", "result"
"""Places of shared arrays beside the versions' numbers: what a rule looks at, and what is evaluated."""

Message = Mapping[str, Any]


KEPT = "kept."
"""In a message, before the number of a client whose lasting state it brings."""


def packed(states: Kept) -> dict[str, Any]:
    """Lasting states by client as entries of a message."""
    return {f"{KEPT}{client}": np.frombuffer(state, np.uint8) for client, state in states.items()}


def unpacked(message: Message) -> dict[int, bytes]:
    """The inverse of `packed`."""
    return {int(k.removeprefix(KEPT)): v.tobytes() for k, v in message.items() if k.startswith(KEPT)}


class Sum:
    """A worker's sum in shared memory, i64[size], and the task that it is at; outlives the process."""

    def __init__(self, size: int, name: str | None = None) -> None:
        self.memory = SharedMemory(name, create=name is None, size=8 * (size + 1))
        whole = np.ndarray(size + 1, np.int64, self.memory.buf)
        self.total: Ids = whole[:size]
        self.at: Ids = whole[size:]

    def close(self) -> None:
        """Lets go of the memory."""
        del self.total, self.at  # views, which would keep it open
        with suppress(BufferError):
            self.memory.close()


class Process:
    """The parent's hold on one worker process of one thread.

    Args:
        recipe: From which it builds its trainer, as JSON.
        total: What it sums into.

    """

    def __init__(self, recipe: str, total: Sum) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        told = (theirs, recipe, total.memory.name, len(total.total))
        self._process = spawn.Process(target=work, args=told, daemon=True)
        needed = f'"{MAIN}:' in recipe  # by a part of the user's, which was defined there
        with _one_thread(), nullcontext() if needed else without_main():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, message: Message) -> bool:
        """Sends it; False if the process is no more."""
        try:
            self.pipe.send_bytes(encode(message))
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next answer, None if the process is no more."""
        try:
            return decode(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None

    def exit_code(self) -> int | None:
        """Of a process that is no more."""
        self._process.join(5)
        return self._process.exitcode

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    def ask_to_end(self) -> None:
        """Has it end when it has done what it was sent."""
        with suppress(OSError):
            self.pipe.send_bytes(encode({"end": True}))
        self.pipe.close()

    def end(self) -> None:
        """Waits for its end, not for long."""
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process that is spawned meanwhile finds these before it loads a maths library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Arrays:
    """The worker's view of what the parent has put into shared memory."""

    def __init__(self) -> None:
        self._memories: dict[str, SharedMemory] = {}

    def open(self, told: Mapping[str, Described]) -> dict[str, Any]:
        """The arrays by name. Whatever else was open is closed: nobody may hold a view of it any more."""
        names = {name for name, _, _ in told.values()}
        for gone in set(self._memories) - names:
            self._memories.pop(gone).close()
        for name in names - set(self._memories):
            self._memories[name] = SharedMemory(name)
        return {
            k: np.ndarray(shape, kind, self._memories[name].buf) for k, (name, kind, shape) in told.items()
        }

    def close(self) -> None:
        """Closes all."""
        for memory in self._memories.values():
            with suppress(BufferError):
                memory.close()


def work(pipe: connection.Connection, recipe: str, sums: str, size: int) -> None:
    """The life of a worker process, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    total, arrays, made = Sum(size, sums), Arrays(), list[_Hands]()

    def make() -> dict[str, Any]:
        given: Recipe = loads(recipe)
        watch = Stopwatch() if given.watched else None
        trainer = given.trainer(total.total, watch)
        shares = Shares(trainer, given.share)
        made.append(_Hands(trainer, shares, examined(trainer, given.sample), arrays, total.at, watch))
        return {}

    alive = _answer(pipe, _caught(make))
    while alive and made:
        try:
            message = decode(pipe.recv_bytes())
        except (EOFError, OSError):
            break
        if "end" in message:
            break
        alive = _answer(pipe, _caught(partial(made[0].do, message)))
    made.clear()  # it holds a view of the sum, which could not be closed while it lives
    total.close()
    arrays.close()


def _answer(pipe: connection.Connection, answer: Message) -> bool:
    try:
        pipe.send_bytes(encode(answer))
    except OSError:  # the parent was killed: nobody waits for the answer
        return False
    return True


def _caught(does: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it returns, or the error that it raised; and the memory that the process holds."""
    try:
        answer = does()
    except UserError as error:
        answer = {"error": str(error), "mistake": True}
    except TrainingError as error:
        answer = {"error": str(error)}
    except Exception:
        answer = {"error": f"a worker failed:\n{traceback.format_exc()}"}
    return answer | {"rss": peak_rss_bytes(), "own": own_bytes()}


@dataclass
class _Hands:
    """What a worker works with."""

    trainer: Trainer
    shares: Shares
    test: Examples
    arrays: Arrays
    at: Ids
    watch: Stopwatch | None
    looking: bool = False
    """Whether it evaluates."""

    def do(self, message: Message) -> dict[str, Any]:
        """Carries out one message, under the watch if there is one."""
        if self.watch is None:
            return self._done(message)
        with self.watch.at(
            "evaluate" if RESULT in message["shared"] else "measure" if "measure" in message else "fold"
        ):
            answer = self._done(message)
        return {**answer, "watch": self.watch.read()}

    def _done(self, message: Message) -> dict[str, Any]:
        views, trainer = self.arrays.open(message["shared"]), self.trainer
        if self.looking is not (RESULT in message["shared"]):
            self.looking = not self.looking
            trim(trainer.learner.spec.num_bytes)
        if "span" in message:
            return {"sums": evaluate_span(trainer, views[RESULT], self.test, slice(*message["span"]))}
        kept = unpacked(message)
        if "clients" in message:
            scores = self.shares.measure(views[RESULT], message["clients"], kept)
            return {"names": list(scores), "each": np.stack(list(scores.values()))}
        tasks = message["tasks"].view(TASK)
        sent = {int(v): within(views, str(v)) for v in np.unique(tasks["version"])}
        if "learn" in message:
            learnt = trainer.learn(tasks, sent, self.at)
            measured = {
                name: np.array([getattr(one, name) for one in learnt]) for name in MEASURED_IN_TRAINING
            }
            return {"up": np.stack([one.up for one in learnt]), **measured}
        if "measure" in message:
            return {"measured": trainer.measure(tasks, sent, kept, self.at).view(np.uint8)}
        late, now = message["staleness"], within(views, NOW)
        reports, states = trainer.train(tasks, late, sent, kept, now, self.at)
        return {"reports": reports.view(np.uint8), **packed(states)}


def within(arrays: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The arrays of a place, by name."""
    return {k.partition("/")[2]: array for k, array in arrays.items() if k.partition("/")[0] == place}
