"""`muster join`: a client that trains as a simulation would, on its own data or by a user's own function."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.part import resolve
from muster.core.store import decode, encode
from muster.core.tables import TASK, rows
from muster.core.work import Steps
from muster.data.federated import FederatedData
from muster.learn.learner import Matrix
from muster.learn.states import UNSENT
from muster.learn.uploads import encoded
from muster.net.client import Client, Say, Task
from muster.net.link import Link
from muster.net.wire import Route
from muster.track.folder import to_stderr, write_whole

from . import errand as errands
from .errand import Errand
from .local_training import LocalTraining

Train = Callable[[Task], None]
"""Works on a task, until its update is sent."""


@dataclass(frozen=True)
class Door:
    """How a client gets in."""

    address: str
    """HOST:PORT."""
    name: str
    certs: Path | None = None
    """Folder with NAME.crt, NAME.key and ca.crt."""
    token_file: Path | None = None
    """A token instead of a certificate; `certs` then needs ca.crt only."""
    insecure: bool = False


def open_link(door: Door, say: Say) -> Link:
    """The link to a server.

    Raises:
        UserError: The address is none, or a certificate cannot be used.
    """
    host, _, port = door.address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{door.address!r} is no address; write HOST:PORT")
    from muster.net.credentials import LiveIdentity, check_plaintext, client_credentials, read_token
    from muster.net.identity import explain_server

    if door.insecure:
        check_plaintext(host)
        return Link(door.address, None, door.name, say)
    if door.certs is None:
        raise UserError(
            "a client needs certificates: give --certs DIR, or say --insecure, for this machine only"
        )
    if door.token_file is not None:
        roots = (door.certs / "ca.crt").read_bytes()
        credentials = client_credentials(roots, token=read_token(door.token_file))
    else:
        identity = LiveIdentity(door.certs, door.name, say).current()
        roots = identity.roots
        credentials = client_credentials(roots, identity)
    return Link(
        door.address, credentials, door.name, say, lambda: explain_server(host.strip("[]"), int(port), roots)
    )


def client(
    address: str,
    name: str,
    *,
    num_examples: int,
    certs: str | Path | None = None,
    token_file: str | Path | None = None,
    insecure: bool = False,
    say: Say = to_stderr,
) -> Client:
    """A client of a deployed run, for a training loop of your own: iterate over it for tasks.

        for task in muster.client("host:7433", "hospital-a", num_examples=812, certs="certs"):
            task.submit(train(task.model))

    Args:
        address: HOST:PORT of the server.
        name: Who you are; the certificate's name.
        num_examples: On which each task trains: what the update weighs by.
        certs: Folder with NAME.crt, NAME.key and ca.crt.
        token_file: A token instead of a certificate.
        insecure: Plaintext, to a server on this machine.
        say: Told what you should know.

    Raises:
        UserError: The server refuses, or is not reached; from the loop.
    """
    door = Door(
        address,
        name,
        None if certs is None else Path(certs),
        None if token_file is None else Path(token_file),
        insecure,
    )
    member, lasting = Client(open_link(door, say), name, num_examples, say), Lasting()

    member.joined = lambda: outfit(member, lasting)
    return member


@dataclass
class Lasting:
    """What a client keeps from task to task: both old and new, until it hears which the server took."""

    home: Path | None = None
    """Where it is on disk; None: in memory only."""
    kept: bytes | None = None
    waiting: dict[int, bytes] = field(default_factory=dict)
    """By ticket."""

    def __post_init__(self) -> None:
        if self.home is None:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        for path in self.home.glob("*.state"):
            if path.stem == "kept":
                self.kept = path.read_bytes()
            else:
                self.waiting[int(path.stem)] = path.read_bytes()

    def offer(self, ticket: int, state: bytes) -> None:
        """Keeps a state for the case that its update is accepted."""
        self.waiting[ticket] = state
        if self.home is not None:
            write_whole(self.home / f"{ticket}.state", state)

    def settle(self, ticket: int, what: str) -> None:
        """Takes over the state of an accepted update; forgets that of any other."""
        state = self.waiting.pop(ticket, None)
        if state is not None and what == "accepted":
            self.kept = state
            if self.home is not None:
                write_whole(self.home / "kept.state", state)
        if self.home is not None:
            (self.home / f"{ticket}.state").unlink(missing_ok=True)


def join(
    door: Door,
    *,
    data: Path | None = None,
    train: str | None = None,
    home: Path | None = None,
    allow_code: bool = False,
    step_secs: float = 0.0,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Takes part in a run to its end.

    Args:
        door: The server, and how to get in.
        data: A prepared folder, or a .npz file with x and y; None: the client's row of the job's data set.
        train: `FILE.py:function`, called with (params, data, task); None: as the job says.
        home: Where lasting state is kept; None: in memory only.
        allow_code: Whether Python files of this machine that the job names may be run.
        step_secs: A step takes so long at least: for experiments with slow clients.
        say: Told what the user should know.

    Returns:
        JSON data: how the run has ended, how many tasks were worked on, how often a call or a transfer broke,
        and how many bytes were sent again for it.

    Raises:
        UserError: The server refuses, the data does not fit, ...

    """
    examples = None if data is None else local_examples(data, door.name)
    member = Client(open_link(door, say), door.name, -1 if examples is None else len(examples), say)
    member.step_secs, num, lasting = step_secs, 0, Lasting(home)
    try:
        member.join()
        if examples is None:
            from muster.data.store import prepare

            dataset, seeds = (errands.of(member.recipe, name, allow_code) for name in ("data", "seeds"))
            examples = prepare(dataset, seeds["data"]).client(member.row)
        member.pending |= set(lasting.waiting)
        member.outcome = lasting.settle
        if train:
            work = own(train, member, examples, lasting, allow_code)
        else:
            work = learnt(member, errands.read(member.recipe, allow_code), examples, lasting)
        for task in member:
            _done(work, task, say)
            num += 1
    finally:
        member.close()
    ended, link = member.ended, member.link
    body = {"status": ended.status, "why": ended.why, "num_tasks": num, "client": member.row}
    return {**body, "num_breaks": link.num_breaks, "resent_bytes": link.num_resent}


def _done(work: Train, task: Task, say: Say) -> None:
    """Works on a task; what training raises is told to the server, and ends the task only."""
    try:
        work(task)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        say(f"task {task.ticket} failed: {type(error).__name__}: {error}")
        task.fail(error)


def learnt(member: Client, errand: Errand, examples: Examples, lasting: Lasting) -> Train:
    """Trains with the same learner as a simulation, to the same bits."""
    from muster.net.rpc import pb

    training = LocalTraining(errand, _One(examples, member.row, errand))  # type: ignore[arg-type]
    local, spec = errand.local, training.learner.spec
    if spec != member.spec:
        raise UserError("this machine builds another model than the server: are both of the same version?")
    member.route = lambda spec: Route.of(spec.size, spec.places(local.personal(spec)))
    member.down, member.rule = local.down, errand.compress

    def train(task: Task) -> None:
        began = time.perf_counter()
        if task.measure:
            found = training.measure(member.row, task.sent, lasting.kept)
            answer(task, found, len(examples))
            return
        row = rows(TASK, 1, ticket=task.ticket, client=member.row, attempt=task.attempt)
        row["version"], row["steps"] = task.version, task.steps
        if not task.leased:
            task.steps = training.num_steps(member.row, task.steps)
        steps = Steps(None if task.leased else task.steps, task.another)
        made = training.train(row, task.sent, lasting.kept, steps)
        if task.stopped:
            return
        if made.state is not None:
            lasting.offer(task.ticket, made.state)
        report = pb.Report(
            num_examples=len(examples),
            num_steps=made.trained.num_steps,
            loss=made.trained.loss,
            loss_sq_mean=made.trained.loss_sq_mean,
            loss_before=made.loss_before,
            secs=time.perf_counter() - began,
        )
        task.send(dict(zip(local.up, made.up, strict=True)), report, made.packed)

    return train


def answer(task: Task, found: Mapping[str, float], num_examples: int) -> None:
    """Says how good a model is by its metrics."""
    nan = float("nan")
    task.answer(found.get("loss", nan), found.get("accuracy", nan), num_examples)


def own(
    reference: str, member: Client, examples: Examples, lasting: Lasting, allow_code: bool = False
) -> Train:
    """Trains by a user's function: params and data in, params (and metrics, if it likes) out.

    A client that is asked how good the model is answers with the job's own model and task.

    Raises:
        UserError: There is no such function, or the job's clients must do what no such function can.
    """
    function = resolve(reference)
    if not callable(function):
        raise UserError(f"{reference} must be a function train(params, data, task)")
    outfit(member, lasting)
    asked = None
    if errands.of(member.recipe, "asks"):
        errand = errands.read(member.recipe, allow_code)
        asked = LocalTraining(errand, _One(examples, member.row, errand))  # type: ignore[arg-type]

    def train(task: Task) -> None:
        if task.measure:
            assert asked is not None
            answer(task, asked.measure(member.row, task.sent, None), len(examples))
            return
        returned = function(task.model, examples, task)
        params, metrics = returned if isinstance(returned, tuple) else (returned, {})
        loss = float(metrics.get("loss", float("nan")))
        task.submit(params, num_examples=len(examples), num_steps=int(metrics.get("num_steps", 0)), loss=loss)

    return train


def outfit(member: Client, lasting: Lasting) -> None:
    """Has a client that trains in its own way compress what it sends as the job wants.

    Raises:
        UserError: The job's clients do more than send a trained model.
    """
    if told := errands.of(member.recipe, "demands"):
        raise UserError(
            f"{told}: a training of your own (--train, muster.client) can only send a trained model; take "
            "another algorithm, or write the training as a class of its own for algorithm.local"
        )
    rule, seeds = (errands.of(member.recipe, name) for name in ("compress", "seeds"))
    if rule is None:
        return

    def pack(task: Task, vectors: Matrix) -> list[bytes] | None:
        if not np.isfinite(vectors).all():
            return None  # the gate is to see it
        kept = {} if lasting.kept is None else decode(lasting.kept)
        made = encoded(rule, seeds["training"], member.row, task.attempt, vectors, kept.get(UNSENT))
        if made.unsent is not None:
            lasting.offer(task.ticket, encode({UNSENT: made.unsent}))
        return made.packed

    member.rule, member.pack, member.outcome = rule, pack, lasting.settle


@dataclass(frozen=True)
class _One:
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


def local_examples(path: Path, name: str) -> Examples:
    """A client's own data.

    Args:
        path: A prepared folder that holds one client, or several of which one has this name; or a .npz
            file with arrays x and y.
        name: The client's.

    Raises:
        UserError: There is no such data, or it does not say which part is this client's.
    """
    from muster.data.federated import FederatedData

    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Examples(arrays["x"], np.asarray(arrays["y"], np.int64))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} must be a .npz file with arrays x and y ({error})") from error
    data = FederatedData.open(path)
    if data.num_clients == 1:
        return data.client(0)
    if name in data.client_names:
        return data.client(data.client_names.index(name))
    raise UserError(
        f"{path} holds the data of {data.num_clients} clients, and none is called {name}; give each client a "
        "folder or a .npz file of its own"
    )
