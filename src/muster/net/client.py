"""A client of a deployed run, for any training loop:

    for task in muster.client("host:7433", name="hospital-a", num_examples=812):
        task.submit(train(task.model))

It joins, waits for work, gets the model, sends heartbeats while the loop's body trains, sends the update,
and ends when the run does. Everything that can break in between is its own business.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError
from muster.core.params import ParamSpec, Vector
from muster.learn.learner import Matrix
from muster.uploads.compress import Compress

from .link import GoneError, Link, Patience, RejoinError, parsed
from .rpc import PROTOCOL_MAX, PROTOCOL_MIN, pb
from .wire import Layout, Route, WireError, codecs, compressed, encode, infinite, mapped, write_file

Say = Callable[[str], None]


@dataclass
class Task:
    """Work that the server has sent."""

    ticket: int
    version: int
    attempt: int
    """Tasks that this client had before."""
    steps: int
    """Mini-batch steps, 0: as the recipe says; of a leased task those before it asks for more."""
    leased: bool
    """Whether the server says from time to time how many more steps there are: see `another`."""
    measure: bool
    """Nothing is to be trained: `answer` how good the model is."""
    sent: Mapping[str, Vector]
    """What travelled: `model` f32[size], and what else the algorithm sends."""
    _client: Client
    _raw: Any
    _began: float = field(default_factory=time.monotonic)
    _asked: int = field(default=0, init=False)
    """Steps that had been made when the server was asked last,"""
    _computed: float = field(default=0.0, init=False)
    """and what those since then have taken, s."""
    _since: float = field(default=0.0, init=False)
    """When the step at hand began."""

    @property
    def model(self) -> dict[str, npt.NDArray[np.float32]]:
        """The model by names of its arrays: copies, to be changed as you like."""
        return {name: np.array(view) for name, view in self._client.spec.views(self.sent["model"]).items()}

    @property
    def stopped(self) -> bool:
        """Whether the server no longer wants this update: a loop that looks here saves its work."""
        return self._client.stopped == self.ticket

    def another(self, made: int) -> bool:
        """Whether there is another step after `made`; asked before each of them. It may ask the server.

        Of a task whose `steps` are 0 there is always another: how many there are is your own business.

        Raises:
            UserError: The server refuses, or is not reached.
        """
        if made:
            took, least = time.monotonic() - self._since, self._client.step_secs
            if took < least:
                time.sleep(least - took)
            self._computed += max(took, least)
        if self.leased and made >= self.steps and not self.stopped:
            each = self._computed / max(made - self._asked, 1)
            self.steps = made + self._client.progress(self.ticket, made, each)
            self._asked, self._computed = made, 0.0
        self._since = time.monotonic()
        return not self.stopped and (made < self.steps or self.steps == 0)

    def submit(
        self,
        trained: Mapping[str, npt.ArrayLike],
        *,
        num_examples: int | None = None,
        num_steps: int = 0,
        loss: float = float("nan"),
        loss_sq_mean: float | None = None,
    ) -> str:
        """Sends the trained model; returns `taken`, `refused` or `unwanted`.

        Args:
            trained: Arrays by name, as `model` has them.
            num_examples: Of this task; default: as many as the client joined with.
            num_steps: Gradient steps taken.
            loss: Mean over the examples, as they were trained.
            loss_sq_mean: Mean of the squared loss; default: the square of `loss`.

        Raises:
            UserError: An array is missing or has another shape, or the task measures; or the server refuses
                the client.
        """
        if self.measure:
            raise UserError(
                f"task {self.ticket} asks how good the model is, and wants no other: where task.measure is "
                "true, evaluate task.model on your examples and call task.answer(loss, accuracy)"
            )
        try:
            delta = self._client.spec.pack(trained) - self.sent["model"]
        except ValueError as error:
            raise UserError(f"the trained model does not fit: {error}") from error
        report = pb.Report(
            num_examples=self._client.num_examples if num_examples is None else num_examples,
            num_steps=num_steps,
            loss=loss,
            loss_sq_mean=loss * loss if loss_sq_mean is None else loss_sq_mean,
            loss_before=float("nan"),
            secs=time.monotonic() - self._began,
        )
        return self.send({"delta": delta}, report)

    def send(self, vectors: Mapping[str, Vector], report: Any, packed: Sequence[bytes] | None = None) -> str:
        """Sends vectors by the names that the algorithm expects, each f32[size]; returns the status.

        `packed` is what the job's compression makes of them, if there is one; by default the client does it.
        """
        return self._client.send(self, vectors, report, packed)

    def answer(self, loss: float, accuracy: float = float("nan"), num_examples: int | None = None) -> None:
        """Says how good the model is on the client's own examples: means over all of them.

        Args:
            loss: Of the model that was sent.
            accuracy: NaN: the task knows none.
            num_examples: Default: as many as the client joined with.
        """
        num = self._client.num_examples if num_examples is None else num_examples
        self._client.tell_measured(self.ticket, loss, accuracy, num)

    def fail(self, error: BaseException) -> None:
        """Tells the server that this task could not be trained, and why."""
        self._client.tell_failure(self.ticket, error)


class Client:
    """A client of a deployed run: iterate over it for tasks, once.

    Args:
        link: To the server.
        name: Who it is.
        num_examples: It has so many; -1: those of its row of the job's data set.
        say: Told what its user should know.

    Attributes:
        recipe: What to train, as the server says; there once it has joined.
        spec: The model's layout.
        row: The client's number in the run.

    """

    def __init__(self, link: Link, name: str, num_examples: int, say: Say) -> None:
        self.link, self.name, self.num_examples, self._say = link, name, num_examples, say
        self.recipe: Any = None
        self.spec = ParamSpec(())
        self.row, self.stopped = -1, -1
        self.pending: set[int] = set()
        """Reported tasks of which it is not known what became of them."""
        self.outcome: Callable[[int, str], None] = lambda ticket, what: None
        """Called when that is known: accepted, refused, discarded or lost."""
        self.route: Callable[[ParamSpec], Route] = lambda spec: Route.of(spec.size, np.zeros(0, np.int64))
        self.down: tuple[str, ...] = ("model",)
        self.rule: Compress | None = None
        """The job's compression."""
        self.pack: Callable[[Task, Matrix], list[bytes] | None] = lambda task, vectors: None
        """How it writes the vectors that travel, f32[U, n]; None: one is not finite."""
        self.joined: Callable[[], None] = lambda: None
        """Called when the client has joined for the first time."""
        self.step_secs = 0.0
        """A step takes so long at least: for experiments with slow clients."""
        self.send_secs = 0.0
        """What the last update took to send; before the first, what the model took to come."""
        self._instance = os.urandom(16)
        self._caller: Any = None
        self._working = -1
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="muster-client-")
        self.ended: Any = None

    def join(self) -> None:
        """Joins the run, or joins it again.

        Raises:
            UserError: The server refuses, or is not reached.
        """
        while True:
            request = pb.JoinRequest(
                name=self.name,
                instance=self._instance,
                protocol_min=PROTOCOL_MIN,
                protocol_max=PROTOCOL_MAX,
                software=f"muster {version('muster-fl')}",
                num_examples=self.num_examples,
                codecs=codecs(),
                time_of_day=time.time(),
            )
            reply = self.link.call("Join", request)
            if reply.come_back_in_secs <= 0:
                break
            time.sleep(reply.come_back_in_secs)
        if self._caller is None:
            self.recipe, self.spec = (
                parsed(reply.recipe, "recipe"),
                ParamSpec.from_json(parsed(reply.spec, "spec")),
            )
            if abs(reply.skew_secs) > 60:
                self._say(f"this clock is {reply.skew_secs:+.0f} s off the server's; only certificates mind")
        first, self._caller, self.row = self._caller is None, reply.caller, reply.caller.client
        self.link.patience = Patience(
            reply.call_secs,
            reply.poll_secs,
            reply.stall_secs,
            reply.retry_secs,
            reply.give_up_secs or self.link.patience.give_up_secs,  # an earlier Muster's server does not say
        )
        self._beat_secs = reply.beat_every_secs
        if self._beats is None:  # from now on: loading data and a framework may take longer than a lease
            self._beats = threading.Thread(target=self._beat, daemon=True)
            self._beats.start()
        if first:
            self.joined()

    def __iter__(self) -> Iterator[Task]:
        """Tasks, until the run ends."""
        try:
            while (task := self.take()) is not None:
                yield task
        finally:
            self.close()

    def take(self) -> Task | None:
        """The next task, when there is one; None: the run has ended.

        Raises:
            UserError: The server refuses, is not reached, or has put this client into quarantine.
        """
        if self._caller is None:
            self.join()
        self._working = -1
        while (raw := self._next()) is not None:
            self._working = raw.ticket
            try:
                sent = self._fetch(raw)
            except GoneError:
                continue
            except RejoinError:
                self.join()
                continue
            return Task(
                raw.ticket, raw.version, raw.attempt, raw.steps, raw.leased, raw.measure, sent, self, raw
            )
        return None

    def _call(self, method: str, request: Callable[[], Any], *, waits: bool = False) -> Any:
        """A call by who has joined: joins again, and makes the request anew, as often as it must.

        `waits`: the server may take `poll_secs` to answer.
        """
        while True:
            try:
                return self.link.call(method, request(), waits=waits)
            except RejoinError:
                self.join()

    def _next(self) -> Any:
        """Waits for a task; None: the run has ended."""
        while True:
            reply = self._call(
                "Await",
                lambda: pb.AwaitRequest(caller=self._caller, pending=sorted(self.pending)),
                waits=True,
            )
            for outcome in reply.outcomes:
                self.pending.discard(outcome.ticket)
                self.outcome(outcome.ticket, outcome.what)
            kind = reply.WhichOneof("next")
            if kind == "ended":
                self.ended = reply.ended
                if self.ended.status == "quarantined":
                    raise UserError(f"{self.ended.why}; it gets no more work in this run")
                return None
            if kind == "task":
                return reply.task
            time.sleep(max(0.0, reply.come_back_in_secs))

    def _fetch(self, raw: Any) -> dict[str, Vector]:
        """Downloads a task's vectors, maps them, and puts the model's spans to their places."""
        path = Path(self._folder.name) / "model.safetensors"
        began = time.monotonic()
        self.link.download(self._caller, raw, path)
        self.send_secs = self.send_secs or time.monotonic() - began
        route = self.route(self.spec)
        trained = self.spec.trained
        sizes = tuple((name, route.length if name == "model" else trained) for name in self.down)
        try:
            found = dict(mapped(path, Layout(sizes)))
        except WireError as error:
            raise UserError(f"the server sent another model than it announced: {error}") from error
        model = self.spec.zeros()
        route.put(found["model"], model)
        return {name: model if name == "model" else np.array(found[name]) for name in self.down}

    def send(
        self, task: Task, vectors: Mapping[str, Vector], report: Any, packed: Sequence[bytes] | None
    ) -> str:
        """Sends an update of a task; returns its status. See `Task.send`."""
        route, raw = self.route(self.spec), task._raw
        picked: dict[str, Vector | bytes] = {name: route.pick(vector) for name, vector in vectors.items()}
        if self.rule is not None:
            packed = packed or self.pack(task, np.stack(list(picked.values())))
            packed = packed or [infinite(self.rule, route.length)] * len(picked)
            picked = dict(zip(picked, packed, strict=True))
        pieces = encode(Layout(tuple((n, route.length) for n in vectors), self.rule), picked)
        path = Path(self._folder.name) / "update.safetensors"
        write_file(path, compressed(pieces) if raw.zstd else pieces)
        began = time.monotonic()
        while True:
            try:
                reply = self.link.upload(self._caller, raw, path, report)
                break
            except RejoinError:
                self.join()
        self.send_secs = time.monotonic() - began
        if reply.status == "taken":
            self.pending.add(raw.ticket)
        elif reply.status == "refused":
            self._say(f"the update of task {raw.ticket} was refused: {reply.why}")
        return str(reply.status)

    def progress(self, ticket: int, made: int, step_secs: float) -> int:
        """Tells how far a leased task is; returns how many more steps it makes, 0: it sends what it has.

        A task that is no longer wanted is `stopped`.
        """
        while True:
            reply = self._call(
                "Progress",
                lambda: pb.ProgressRequest(
                    caller=self._caller,
                    ticket=ticket,
                    steps=made,
                    step_secs=step_secs,
                    send_secs=self.send_secs,
                ),
            )
            if reply.stop:
                self.stopped = ticket
            if reply.stop or reply.finish:
                return 0
            if reply.steps > 0:
                return int(reply.steps)

    def tell_measured(self, ticket: int, loss: float, accuracy: float, num_examples: int) -> None:
        """Tells how good the model of a task is; of a task that is over nobody wants to know."""
        self._call(
            "Measured",
            lambda: pb.MeasuredRequest(
                caller=self._caller, ticket=ticket, loss=loss, accuracy=accuracy, num_examples=num_examples
            ),
        )

    def tell_failure(self, ticket: int, error: BaseException) -> None:
        """Tells the server that a task could not be trained."""
        text = "".join(traceback.format_exception(error))
        request = pb.FailRequest(
            caller=self._caller, ticket=ticket, error=f"{type(error).__name__}: {error}", traceback=text
        )
        with suppress(RejoinError):
            self.link.call("Fail", request)

    def _beat(self) -> None:
        """Heartbeats, until the client is closed."""
        while not self._over.wait(self._beat_secs):
            ticket = self._working
            # The server is away, or wants us to join: the main thread sees to it. Or it has closed the link.
            with suppress(grpc.RpcError, ValueError):
                reply = self.link.once("Beat", pb.BeatRequest(caller=self._caller, ticket=ticket))
                if reply.stop:
                    self.stopped = ticket

    def close(self) -> None:
        """Says goodbye, if the run goes on."""
        if self._over.is_set():
            return
        self._over.set()
        if self._caller is not None and self.ended is None:
            with suppress(grpc.RpcError):
                self.link.once("Leave", pb.LeaveRequest(caller=self._caller))
        self.link.close()
        self._folder.cleanup()
