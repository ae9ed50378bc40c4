"""The server between the network and the conductor: one entry after another, on disk before it counts.

Entries wait in a queue. One coroutine takes them in batches, stamps them with the time, appends them to
the journal, has it synced once, and only then delivers them; so an acknowledgement follows the disk, and
two hundred arrivals share one sync. Everything that may block runs in a thread: heartbeats go on.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from muster.core.errors import RunFolderError
from muster.core.record import Record
from muster.core.tables import SECOND, Kind, Reason, Table

from .conductor import Conductor
from .journal import Entry, Journal, Note
from .models import Models
from .settings import Deploy
from .spool import Spool

T = TypeVar("T")

MAX_BATCH = 256
FULL = (errno.ENOSPC, errno.EDQUOT)


class Keeper(Protocol):
    """What is written down when a version has been made; may raise RunFolderError when the disk is full."""

    def record(self, record: Record) -> None:
        """Tells the sinks, and keeps the record."""
        ...

    def checkpoint(self, end: int) -> bool:
        """Saves the run with its journal's length, if it is time to; returns whether it did."""
        ...

    def over(self, record: Record) -> tuple[str, str] | None:
        """Whether the run ends with this record for a reason that `step` cannot see: status and why."""
        ...


@dataclass
class Hub:
    """A deployed run that is under way.

    Args:
        conductor: What decides and folds.
        journal: Where entries go first.
        spool: Where updates are received.
        models: What clients download.
        deploy: Time-outs and limits.
        keeper: Records and checkpoints.
        say: Told what the operator should know.
        began_ns: Run time that had passed when this process began.
        clock: Nanoseconds, monotonic: the time of the run's events.

    """

    conductor: Conductor
    journal: Journal
    spool: Spool
    models: Models
    deploy: Deploy
    keeper: Keeper
    say: Callable[[str], None]
    began_ns: int = 0
    clock: Callable[[], int] = time.monotonic_ns
    heard: dict[int, float] = field(default_factory=dict)
    """Client -> when it was heard of last, on the monotonic clock."""
    records: list[Record] = field(default_factory=list)
    """Told by the conductor, not written yet."""
    notes: list[Note] = field(default_factory=list)
    """What came of the entry at hand, not written yet."""
    paused: str = ""
    """Why the server waits (a full disk); empty if it does not."""

    def __post_init__(self) -> None:
        self._queue: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[bool]]] = asyncio.Queue()
        self._news: dict[int, asyncio.Event] = {}
        self._taken: dict[int, tuple[int, int]] = {}
        """Client -> the ticket that it got last, and when: ns since the run began."""
        self._num_full = 0
        """Writes that wait for room on the disk."""
        self._timer: asyncio.TimerHandle | None = None
        self._set: tuple[int, int] | None = None
        self._begin = self.clock()
        self._last = self.began_ns
        self.over = asyncio.Event()
        waited = set(self.conductor.state.tasks["ticket"].tolist()) | set(self.conductor.arrived)
        self._covered: list[int] = []
        self.conductor.settled = sorted(self.spool.tickets() - waited)
        for member in self.conductor.roster.members.values():
            if member.present:  # a restarted server gives them time to find it again
                self.heard[member.client] = time.monotonic() + self.deploy.retry_secs

    def now_ns(self) -> int:
        """ns since the run began; no two entries have the same, and the wall clock plays no part."""
        self._last = max(self._last + 1, self.began_ns + self.clock() - self._begin)
        return self._last

    def give(self, task: Table) -> None:
        """Notes when a client got its TASK row, [1]: until then it may have been loading its data."""
        client, ticket = int(task["client"][0]), int(task["ticket"][0])
        if self._taken.get(client, (-1, 0))[0] != ticket:
            self._taken[client] = ticket, self.now_ns()

    def waited_ns(self, task: Table) -> int:
        """How long a task was out before its client asked for it; 0 where this server did not give it."""
        ticket, taken_ns = self._taken.get(int(task["client"][0]), (-1, 0))
        return max(taken_ns - int(task["sent_at"][0]), 0) if ticket == task["ticket"][0] else 0

    @property
    def num_queued(self) -> int:
        """Entries that wait for their turn."""
        return self._queue.qsize()

    def news(self, client: int) -> asyncio.Event:
        """Set when something has changed for a client."""
        return self._news.setdefault(client, asyncio.Event())

    async def submit(self, kind: Kind, **columns: Any) -> bool:
        """Has an entry journalled and delivered; returns whether it counted when its turn came.

        What comes after the run's end counts for nothing.
        """
        if self.conductor.over and self.over.is_set():
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(({"kind": kind, **columns}, future))
        return await future

    async def run(self) -> None:
        """Works until the run has ended."""
        watch = asyncio.create_task(self._watch())
        try:
            await self._after(self.journal.end)
            while self.conductor.ended is None:
                batch = [await self._queue.get()]
                while len(batch) < MAX_BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._work(batch)
        finally:
            watch.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self.over.set()
            while self.conductor.over and not self._queue.empty():  # these come too late
                _, future = self._queue.get_nowait()
                if not future.done():
                    future.set_result(False)
            for event in self._news.values():
                event.set()

    async def _work(self, batch: list[tuple[dict[str, Any], asyncio.Future[bool]]]) -> None:
        entries = [Entry(now=self.now_ns(), **columns) for columns, _ in batch]
        ends, arrived = [], [entry.ticket for entry in entries if entry.kind == Kind.ARRIVED]
        if arrived:  # before there is a line that says that they are here
            await self.with_space(self.spool.sync_names, arrived)
        for entry in entries:
            await self.with_space(self.journal.append, entry)
            ends.append(self.journal.end)
        if arrived:
            await asyncio.to_thread(self.journal.sync)
        for entry, end, (_, future) in zip(entries, ends, batch, strict=True):
            counts = entry.kind != Kind.ARRIVED or self.conductor.is_out(entry.client, entry.ticket)
            await self.with_space(self.conductor.plane.reserve)  # a version cannot be made by half
            await asyncio.to_thread(self.conductor.deliver, entry)
            await self._after(end)
            if not future.cancelled():
                future.set_result(counts)

    async def _after(self, end: int) -> None:
        """Writes down what came of the entry that ends at byte `end`, and tells whom it concerns."""
        made = False
        while self.notes:
            made |= "made" in self.notes[0]
            await self.with_space(self.journal.append, self.notes[0])
            self.notes.pop(0)
        while self.records:
            record = self.records[0]
            await self.with_space(self.keeper.record, record)
            self.records.pop(0)
            ending = self.keeper.over(record) if self.conductor.ended is None else None
            if ending is not None:
                await asyncio.to_thread(self.conductor.end, *ending)
        if made and self.conductor.ended is None:
            await asyncio.to_thread(self.journal.sync)  # a checkpoint says how far the journal goes
            if await self.with_space(self.keeper.checkpoint, end) and not self.deploy.keep_updates:
                # Those since the checkpoint before stay: should this one be damaged, it is made again.
                self.spool.drop(self._covered)
                self._covered, self.conductor.settled = self.conductor.settled, []
            self.models.keep({self.conductor.state.version, *self.conductor.state.tasks["version"].tolist()})
        while self.conductor.warnings:
            self.say(self.conductor.warnings.pop(0))
        self._set_timer()
        touched, self.conductor.touched = self.conductor.touched, set()
        for client in touched:
            self.news(client).set()

    def _set_timer(self) -> None:
        wake = self.conductor.wake
        if wake is None or wake == self._set:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._set = wake
        left = (wake[0] - self.began_ns - self.clock() + self._begin) / SECOND
        self._timer = asyncio.get_running_loop().call_later(max(left, 0) + 1e-4, self._ring, wake[1])

    def _ring(self, number: int) -> None:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(({"kind": Kind.WOKE, "ticket": number}, future))

    async def _watch(self) -> None:
        """Ends leases: a client that has not been heard of is lost, and its task with it."""
        while True:
            await asyncio.sleep(self.deploy.lease_secs / 10)
            late = time.monotonic() - self.deploy.lease_secs
            for client in [c for c, heard in self.heard.items() if heard < late]:
                if self.heard.get(client, late) >= late:
                    continue  # it has left, or was heard of, while another's end was written down
                del self.heard[client]
                name = self.conductor.roster.members[client].name
                lease = self.deploy.lease_secs
                self.say(f"{name} was not heard of for deploy.lease_secs = {lease:g} s: it is lost")
                task = self.conductor.task_of(client)
                if task is not None:
                    await self.submit(
                        Kind.LOST, client=client, ticket=int(task["ticket"][0]), reason=Reason.OFFLINE
                    )
                await self.submit(Kind.LEFT, client=client, reason=Reason.OFFLINE)

    async def start(self) -> None:
        """Begins the run, once: the clients that it waits for have joined."""
        if not self.conductor.begun:
            await self.submit(Kind.STARTED)

    async def with_space(self, write: Callable[..., T], *args: Any) -> T:
        """Calls `write` in a thread; while the disk is full the server waits, and says so.

        A full disk may have room for a line and none for an update: it is full until nothing waits any more.
        """
        waits = False
        try:
            while True:
                try:
                    done = await asyncio.to_thread(write, *args)
                except (OSError, RunFolderError) as error:
                    cause = error.__cause__ if isinstance(error, RunFolderError) else error
                    if not (isinstance(cause, OSError) and cause.errno in FULL):
                        raise
                    self._num_full += not waits
                    waits = True
                    if not self.paused:
                        self.paused = f"the disk is full: the run waits until there is room ({error})"
                        self.say(self.paused)
                else:
                    if waits and self._num_full == 1:
                        self.say("there is room on the disk again: the run goes on")
                    return done
                await asyncio.sleep(0.5)
        finally:  # also when who waits gives up
            self._num_full -= waits
            if not self._num_full:
                self.paused = ""

    def status(self) -> Mapping[str, Any]:
        """What a status page shows: small, bounded by the number of clients, made anew at every call."""
        conductor, members = self.conductor, self.conductor.roster.members
        states = dict.fromkeys(("idle", "training", "lost", "quarantined"), 0)
        busy = set(conductor.state.tasks["client"][~conductor.state.tasks["arrived"]].tolist())
        for client, member in list(members.items()):
            state = "quarantined" if member.quarantined else "training" if client in busy else "idle"
            states["lost" if not member.present else state] += 1
        return {
            "version": conductor.state.version,
            "begun": conductor.begun,
            "ended": None if conductor.ended is None else conductor.ended.status,
            "num_clients": conductor.roster.num_clients,
            "clients": states,
            "tasks_out": len(busy),
            "updates_waiting": len(conductor.arrived),
            "paused": self.paused,
        }
