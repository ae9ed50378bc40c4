"""A deployed run in one process: a server in its own thread, clients in others, real gRPC between them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from muster.compose import compose
from muster.core.record import Record
from muster.core.storage import Storage
from muster.core.tables import SECOND
from muster.data.store import prepare
from muster.deploy import errand as errands
from muster.deploy.assembly import Assembly, assemble, take_up
from muster.deploy.door import Door, open_link
from muster.deploy.examiner import Start
from muster.deploy.lasting import Lasting
from muster.deploy.listen import Listen
from muster.deploy.server import Keeper, open_server
from muster.deploy.states import open_states
from muster.deploy.worker import learnt
from muster.job import Job, load_job
from muster.net.client import Client, Task
from muster.net.hub import Hub
from muster.net.journal import JOURNAL, Journal
from muster.net.models import Models
from muster.net.rpc import pb
from muster.track.summary import Tally

QUICK = {
    "lease_secs": 60.0,  # a test machine may stand still for a while: what loses clients is said by the test
    "poll_secs": 2.0,
    "call_secs": 2.0,
    "stall_secs": 1.0,
    "retry_secs": 0.2,
    "give_up_secs": 60.0,
}


def job_of(rounds: int = 3, num_clients: int = 4, **changes: Any) -> Job:
    """Logistic regression on digits: a task takes milliseconds."""
    deploy = {**QUICK, "start_with": num_clients, **changes.pop("deploy", {})}
    base: dict[str, Any] = {
        "data": {"name": "digits", "partition": {"name": "iid", "num_clients": num_clients}},
        "model": "logistic",
        "algorithm": {"name": "fedavg", "pace": {"cohort": num_clients}},
        "population": "always_on",
        "engine": {"backend": "numpy", "mode": "sequential", "workers": 1},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 1000},
    }
    return load_job({**base, **changes, "deploy": deploy})


class Clock:
    """Stands still until the test says what time it is."""

    def __init__(self) -> None:
        self.secs = 0.0

    def __call__(self) -> int:
        return round(self.secs * SECOND)


@cache
def simulated(job: Job) -> str:
    """The hash of the model that a simulation of the job ends with."""
    session = compose(job)
    for _ in session.sim:
        pass
    session.close()
    sha256 = session.model_sha256()
    assert sha256 is not None
    return sha256


@cache
def start_of(job: Job) -> Start:
    """What the examiner would say."""
    session = compose(job)
    assert session.plane is not None
    engine, data = session.job.engine, prepare(job.data, job.seed_of("data")).path
    start = Start(session.spec, session.plane.params, engine.backend, data, engine.numerics)
    session.close()
    return start


class Rig:
    """A server whose run folder is `folder`; a second one on the same folder goes on with its run."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        *,
        port: int = 0,
        listen: Listen | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.job, self.folder = job, folder
        self.listen = listen or Listen(port=port, insecure=True, state_port=0)
        self.clock = clock
        self.said: list[str] = []
        self.told: list[Record] = []
        self._ready, self._stop = threading.Event(), None
        folder.mkdir(parents=True, exist_ok=True)
        self.clients: list[Client] = []
        self.failed: list[BaseException] = []
        """What ended workers in their threads."""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"
        if self._error is not None:
            raise self._error

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
            self._ready.set()

    async def _serve(self) -> None:
        start = start_of(self.job)
        storage = Storage.fitting(self.folder, start.spec.num_bytes, self.job.deploy.memory_mb)
        start = replace(start, storage=storage)

        def make() -> Assembly:
            return assemble(self.job, self.folder, start, lambda p: {}, store=self.folder / "clients")

        again, on_disk = (self.folder / JOURNAL).is_file(), storage.folder is not None
        taken_up = take_up(make, self.folder, self.said.append, on_disk=on_disk) if again else (make(), 0)
        made, began = taken_up
        journal = Journal(self.folder)
        try:
            await self._open(made, began, journal)
        finally:
            journal.close()
            made.plane.close()

    async def _open(self, made: Assembly, began: int, journal: Journal) -> None:
        keeper = Keeper(self.job, self.folder, made, (self,), Tally(), saved=made.conductor.state.version)  # type: ignore[arg-type]
        models = Models(
            self.folder, made.route, lambda version: made.plane.moment.snapshots[version], made.storage
        )
        self.hub = Hub(
            made.conductor, journal, made.spool, models, self.job.deploy, keeper, self.said.append, began,
            self.clock, records=made.records, notes=made.notes,
        )  # fmt: skip
        self.made, self._loop, self._stop = made, asyncio.get_running_loop(), asyncio.Event()
        server, service, self.port = await open_server(
            self.hub, made, self.folder, self.listen, self.said.append
        )
        self.service = service
        states = open_states(self.hub, service.gate, self.listen, self.said.append)
        work = asyncio.create_task(self.hub.run())
        stopping = asyncio.create_task(self._stop.wait())
        self._ready.set()
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() and not self._stop.is_set():
            work.result()
            await service.farewell(0.5)
        stopping.cancel()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        if states is not None:
            states.cancel()
            with suppress(asyncio.CancelledError):
                await states
        await server.stop(0)

    @property
    def state_port(self) -> int:
        """Of the state server, as the operator is told it."""
        return next(int(line.rpartition(":")[2]) for line in self.said if "state server" in line)

    def tell(self, record: Record) -> None:
        self.told.append(record)

    def kill(self) -> None:
        """Ends the server as it stands: nothing is said, nothing is saved."""
        if self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def wait(self, secs: float = 60.0) -> str:
        """Waits for the run's end; returns the model's hash."""
        self._thread.join(secs)
        assert not self._thread.is_alive(), (
            f"the run hangs: {self.hub.status()}, {self.said[-5:]}, {self.failed}"
        )
        if self._error is not None:
            raise self._error
        return self.made.spec.sha256(self.made.plane.result)

    def part(self) -> None:
        """Ends the clients as killed processes end: without a word."""
        for client in self.clients:
            vanish(client)

    def until(self, what: Callable[[], bool], secs: float = 30.0) -> None:
        """Waits until something is so."""
        end = time.monotonic() + secs
        while not what():
            assert time.monotonic() < end, f"never came: {self.hub.status()}, {self.said[-5:]}, {self.failed}"
            time.sleep(0.005)

    def client(self, number: int, num_examples: int = -1, address: str = "") -> Client:
        """A client that has not joined."""
        name = f"client-{number}"
        door = Door(address or f"127.0.0.1:{self.port}", name, insecure=True)
        link = open_link(door, self.said.append)
        link.patience.give_up_secs = self.job.deploy.give_up_secs
        self.clients.append(Client(link, name, num_examples, self.said.append))
        return self.clients[-1]


def ask(client: Client, ticket: int, made: int, step_secs: float) -> int:
    """How many more steps a task makes that has made `made`; 0: it sends."""
    request = pb.ProgressRequest(
        caller=client._caller, ticket=ticket, steps=made, step_secs=step_secs, send_secs=0.0
    )
    reply = client.link.once("Progress", request)
    return 0 if reply.finish else int(reply.steps)


def vanish(client: Client) -> None:
    """Ends a client as a killed process ends."""
    client._over.set()
    client.link.close()
    client._folder.cleanup()


class Worker:
    """A client that trains by the book, in a thread; `before` is called with each task first."""

    def __init__(
        self,
        rig: Rig,
        number: int,
        before: Callable[[Task], Any] = lambda task: None,
        address: str = "",
        start: bool = True,
    ) -> None:
        self.client, self.before = rig.client(number, address=address), before
        self.error: BaseException | None = None
        self._failed = rig.failed
        self.num = 0
        self._data = prepare(rig.job.data, rig.job.seed_of("data"))
        self.thread = threading.Thread(target=self._live, daemon=True)
        if start:
            self.thread.start()

    def _live(self) -> None:
        try:
            self.client.join()
            errand = errands.read(self.client.recipe, False)
            lasting = Lasting()
            self.client.outcome = lasting.settle
            train = learnt(self.client, errand, self._data.client(self.client.row), lasting)
            for task in self.client:
                if self.before(task) == "leave out":
                    continue
                train(task)
                self.num += 1
        except BaseException as error:
            self.error = error
            self._failed.append(error)


def crowd(rig: Rig, but: Mapping[int, Callable[[Task], Any]] | None = None) -> list[Worker]:
    """A worker for each client of the job; some do something else first."""
    count = rig.made.conductor.roster.num_clients
    return [Worker(rig, number, (but or {}).get(number, lambda task: None)) for number in range(count)]


def noise(seed: int, size: int) -> Any:
    """A vector of ordinary numbers."""
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)
