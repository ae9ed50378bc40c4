"""The simulated world: carries out what `step` asks, on a virtual clock.

Timing first, learning later: a task's outcome is known when it is sent, so only what is accepted is
ever trained, all of a version's tasks together. What does not count is still timed and charged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np

from muster.core.algorithm import Algorithm
from muster.core.ledger import Ledger, Power, spans
from muster.core.population import Candidates
from muster.core.record import Record, Span, mean_loss
from muster.core.state import ServerState
from muster.core.step import TooFarError, appetite, end, step
from muster.core.tables import (
    SECOND,
    TASK,
    Accept,
    Advance,
    Command,
    Continue,
    Discard,
    Evaluate,
    Events,
    Finish,
    Ids,
    Kind,
    Lease,
    Measure,
    Purpose,
    Reason,
    Stop,
    Table,
    Train,
    WakeAt,
    joined,
    rows,
    taken,
    to_secs,
)
from muster.track.summary import meets

from .costs import Timed, spent_alone
from .link import ServerLink
from .queue import ARRIVED, LOST, NEVER, Queue


class World(Timed, Protocol):
    """Who is there, and how long things take. A function of its arguments: nothing in it changes."""

    def num_online(self, now_ns: int) -> int:
        """How many clients are online at an instant, the busy included; may be an estimate."""
        ...

    def present(self, now_ns: int) -> Candidates:
        """The clients that are present at an instant."""
        ...

    def outcomes(self, tasks: Table) -> Table:
        """EVENT rows in key order: `Arrived` or `Lost` for each of the TASK rows."""
        ...


class Plane(Protocol):
    """What trains, folds and moves the model; the clock alone can run without one."""

    @property
    def look_ahead(self) -> int:
        """How many of the tasks that will arrive next it wants to know when it advances."""
        ...

    def advance(
        self, tasks: Table, staleness: Ids, keep: Collection[int], coming: Table | None = None
    ) -> Table:
        """Makes the next version from accepted TASK rows; returns their REPORT rows.

        `coming` are TASK rows that are out, in the order in which they will probably be accepted.
        """
        ...

    def measure(self, tasks: Table) -> Table:
        """MEASURED rows of TASK rows: how good the model sent is on a client's examples."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Metrics of the newest model; empty if there is no model."""
        ...


NO_METRICS: Mapping[str, float] = MappingProxyType({})
"""Nothing was evaluated."""


@dataclass(frozen=True)
class Outside:
    """Ends that `step` cannot see: wall time, and a metric that is good enough."""

    wall_secs: float | None = None
    metric: str = ""
    target: float | None = None

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether the target is met; losses are to fall, everything else is to rise."""
        if self.target is None or self.metric not in metrics:
            return False
        return meets(self.metric, metrics[self.metric], self.target)


@dataclass(frozen=True)
class Tried:
    """What would come of telling the server some rows at once."""

    events: Events
    state: ServerState
    commands: list[Command]
    sent: Table
    """The tasks that it sends at the instants of the rows,"""
    ends: Table
    """and when they end: EVENT rows in key order."""


@dataclass
class Simulation:
    """One run. Iterate over it to get a Record for each version.

    Args:
        algorithm: The five parts.
        seed: Keys the selection's draws.
        world: The devices.
        plane: The model, or the clock-only stand-in.
        state: From `initial_state`, or from a checkpoint.
        outside: Ends by wall time or target.
        wall_before: Wall seconds spent before a resume.
        surrogate: Mark the records: their losses come from a curve.
        link: What all tasks share of the server's link; None: it is never too narrow.
        power: Of the devices; None: energy is not counted.
        timeline: Clients whose tasks are told one by one (Record.spans), ascending.
        epsilon: What so many versions of a private run give away; None: it is not private.
        num_tested: Test examples that are evaluated, if they are a sample.
        log: Called with every table of events that is delivered; a replay needs no more.

    """

    algorithm: Algorithm
    seed: int
    world: World
    plane: Plane
    state: ServerState
    outside: Outside = field(default_factory=Outside)
    wall_before: float = 0.0
    surrogate: bool = False
    link: ServerLink | None = None
    power: Power | None = None
    timeline: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    epsilon: Callable[[int], float] | None = None
    num_tested: int | None = None
    log: Callable[[Events], None] = field(default=lambda _: None)
    ended: Stop | None = field(default=None, init=False)
    _queue: Queue = field(default_factory=Queue, init=False)
    _out: Table = field(default_factory=lambda: rows(TASK, 0), init=False)
    """The server's tasks before its last step: what that accepts or discards was among them."""
    _accepted: list[tuple[Table, Accept]] = field(default_factory=list, init=False)
    _lost: list[tuple[Table, Ids, Ids]] = field(default_factory=list, init=False)
    """Tasks, until when they ran, and why they were lost."""
    _measured: list[Table] = field(default_factory=list, init=False)
    """Tasks of clients that were asked and have reported."""
    _ledger: Ledger = field(default_factory=Ledger, init=False)
    _spans: list[Span] = field(default_factory=list, init=False)
    _metrics: Mapping[str, float] = field(default_factory=lambda: NO_METRICS, init=False)
    _evaluated: int = field(default=-1, init=False)
    _tried: Tried | None = field(default=None, init=False)
    _together: int = field(default=2, init=False)
    """Rows that are worth trying to tell at once; it changes no bit."""

    def __post_init__(self) -> None:
        self._begun = time.perf_counter()
        self._fresh = self.state.next_ticket == 0 and self.state.version == 0 and self.state.timer == -1
        if self._fresh:
            return
        # A resumed run: tasks that are out are timed again, to the same nanosecond. Where they share a link,
        # it has been put back as it was; what has arrived there may not have been told.
        out = self.state.tasks
        self._ledger.num_sent = int(np.count_nonzero(out["version"] == self.state.version))
        waiting = taken(out, ~out["arrived"])
        if self.link is None:
            self._queue.push(self.world.outcomes(waiting))
        else:
            self._queue.push(self.link.told(waiting["ticket"]))
        if self.state.wake_ns is not None:
            self._queue.wake_at(self.state.wake_ns, self.state.timer)

    @property
    def wall_secs(self) -> float:
        """Wall time of the run, time before a resume included."""
        return self.wall_before + time.perf_counter() - self._begun

    def __iter__(self) -> Iterator[Record]:
        """Runs to the end. After each record, `state` and the plane are at the end of that version."""
        if self._fresh:
            self._evaluate(0)
            yield self._record(None)
            self._carry_out(self._step(Events.one(Kind.STARTED, 0)))
        while self.ended is None:
            if self.link is not None:
                self._queue.push(self.link.run(self._queue.next_ns()))
            events = self._next()
            assert events is not None, "no timer is set and nothing is out, yet the run goes on"
            self._note(events)
            commands = self._carry_out(self._step(events))
            if any(isinstance(command, Advance) for command in commands):
                reports = self._advance()
                commands = self._step(
                    Events.one(Kind.ADVANCED, self.state.now_ns, self.state.version, reports)
                )
                # What ends or measures this version comes first; what is sent belongs to the next.
                of_version = Discard | Evaluate | Stop
                self._carry_out([c for c in commands if isinstance(c, of_version)])
                time_is_up = self.ended is None and self._time_is_up()
                if time_is_up:
                    self._evaluate(self.state.version)
                record = self._record(reports)
                if self.ended is None:
                    self._carry_out([c for c in commands if not isinstance(c, of_version)])
                    self._end_outside(record, time_is_up)
                yield record
        self._settle()
        if self._ledger != Ledger() or self._metrics:
            yield replace(self._record(None), version=self.state.version + 1, complete=False)

    def _next(self) -> Events | None:
        """What the server is told next: as many rows as it wants, and as can be told at once.

        Rows that it answers each at its own instant are tried: if a task that it sends meanwhile ends before
        the last of them, the rows from that end on go back. `step` is pure: what has been tried and is not
        used has not happened.
        """
        wanted, most = appetite(self.algorithm, self.state), self._together
        if self.link is not None or wanted.together == 1 or wanted.num_losses == 1:
            return self._queue.take(wanted)
        losses = None if wanted.num_losses is None else wanted.num_losses - 1
        wanted = replace(wanted, num_arrivals=wanted.together, stop_at_loss=False, num_losses=losses)
        events = self._queue.take(wanted, most)
        if events is None or len(events.table) == 1:
            return events
        kept = self._try(events)
        if kept == len(events.table):
            self._together = 2 * max(most, kept) if kept >= most else most
            return events
        self._together = kept + 1
        self._queue.push(events.table[kept:])
        return Events(events.table[:kept])

    def _try(self, events: Events) -> int:
        """How many of the rows can be told at once; if all, what comes of it is remembered."""
        try:
            state, commands = self._asked(events)
        except TooFarError as cut:
            fewer = cut.num_rows
            return fewer if fewer == 1 else self._try(Events(events.table[:fewer]))
        sent = next((command.tasks for command in commands if isinstance(command, Train)), rows(TASK, 0))
        ends = self.world.outcomes(sent)
        first = int(ends["now"][0]) if len(ends) else NEVER[0]
        kept = int(np.searchsorted(events.table["now"], first))
        self._tried = Tried(events, state, commands, sent, ends)
        return kept

    def _asked(self, events: Events) -> tuple[ServerState, list[Command]]:
        present = self.world.present(int(events.table["now"][-1]))
        return step(self.algorithm, self.seed, self.state, events, present)

    def _step(self, events: Events) -> list[Command]:
        self.log(events)
        self._out, tried = self.state.tasks, self._tried
        if tried is not None and tried.events is events:
            self.state, commands = tried.state, tried.commands
        else:
            self.state, commands = self._asked(events)
        return commands

    def _outcomes(self, tasks: Table) -> Table:
        """The world's, which has been asked if these have been tried."""
        tried, self._tried = self._tried, None
        return tried.ends if tried is not None and tried.sent is tasks else self.world.outcomes(tasks)

    def _carry_out(self, commands: list[Command]) -> list[Command]:
        """Carries out what a step said; returns it, or what the next said if an answer was due at once."""
        for command in commands:
            match command:
                case Train(tasks):
                    self._ledger.num_sent += len(tasks)
                    if self.link is None:
                        self._queue.push(self._outcomes(tasks))
                    else:
                        self.link.send(self.world, tasks)
                case Accept(tickets):
                    self._accepted.append((self._find(tickets), command))
                case Discard(tickets, reason):
                    self._discard(tickets, reason)
                case Continue(tickets) | Finish(tickets):
                    self._answer(tickets)
                case WakeAt(time_ns, number):
                    self._queue.wake_at(time_ns, number)
                case Measure(version, tickets, took):
                    found = self.plane.measure(self._find(tickets))
                    found["took_secs"] = took
                    return self._carry_out(self._step(Events.answer(self.state.now_ns, version, found)))
                case Evaluate(version):
                    self._evaluate(version)
                case Stop():
                    self.ended = command
                case Advance():
                    pass  # the caller folds what has been accepted, then says `Advanced`
        return commands

    def _find(self, tickets: Ids) -> Table:
        """The tasks of tickets that were out before the last step."""
        return taken(self._out, np.searchsorted(self._out["ticket"], tickets))

    def _answer(self, tickets: Ids) -> None:
        """Leased tasks have been told what to do: when they will be heard of next."""
        tasks = taken(self.state.tasks, np.searchsorted(self.state.tasks["ticket"], tickets))
        if self.link is None:
            self._queue.push(self.world.outcomes(tasks))
        else:
            self.link.answer(self.world, tasks)

    def _discard(self, tickets: Ids, reason: Reason) -> None:
        tasks = self._find(tickets)
        self._queue.drop(tickets)
        if self.link is not None:
            self.link.stop(tickets, self.state.now_ns)
        self._charge(tasks, self.state.now_ns, reason)
        if reason == Reason.LATE:
            self._ledger.num_late += len(tasks)
        else:
            self._ledger.num_discarded += len(tasks)

    def _note(self, events: Events) -> None:
        """Notes the tasks that these events lose, and those that have measured: both can be charged."""
        if self.algorithm.select.asks:
            told = events.table["ticket"][events.table["kind"] == ARRIVED]
            tasks = taken(self.state.tasks, np.searchsorted(self.state.tasks["ticket"], told))
            self._measured.append(taken(tasks, tasks["work"] == Purpose.MEASURE))
            self._ledger.num_measured += len(self._measured[-1])
        gone = events.table["kind"] == LOST
        if gone.any():
            lost = events.table[gone]
            tasks = taken(self.state.tasks, np.searchsorted(self.state.tasks["ticket"], lost["ticket"]))
            self._lost.append((tasks, lost["now"], lost["reason"]))
            self._ledger.num_lost += len(lost)

    def _advance(self) -> Table:
        # A pace may advance with nothing accepted: the version is made, the model stays.
        tasks = joined(rows(TASK, 0), *(tasks for tasks, _ in self._accepted))
        staleness = np.concatenate([np.zeros(0, np.int64), *(said.staleness for _, said in self._accepted)])
        took = np.concatenate([np.zeros(0), *(said.took_secs for _, said in self._accepted)])
        self._settle()
        keep = set(self.state.tasks["version"].tolist())
        reports = self.plane.advance(tasks, staleness, keep, self._coming())
        reports["secs"] = self.world.timing(tasks)["compute"] / SECOND
        reports["took_secs"] = took
        return reports

    def _coming(self) -> Table:
        """Tasks that are out and will be trained as they are, those that report first first.

        On a shared link it is not known who reports, and when: the oldest first.
        """
        limit, out = self.state.limits.rounds, self.state.tasks
        left = self.plane.look_ahead
        if limit is not None:
            left = min(left, (limit - self.state.version) * self.algorithm.pace.max_accepts)
        if left <= 0:
            return out[:0]
        if self.link is None:
            out = taken(out, np.searchsorted(out["ticket"], self._queue.coming(len(out))))
        plain = (out["work"] == Purpose.TRAIN) & (out["lease"] == Lease.NONE) & ~out["arrived"]
        return taken(out, np.flatnonzero(plain)[:left])

    def _settle(self) -> None:
        """Charges what ended since the last version: all at once, each up to its own end."""
        if self._lost:
            lost, until, reasons = zip(*self._lost, strict=True)
            self._charge(joined(*lost), np.concatenate(until), np.concatenate(reasons))
            self._lost.clear()
        if self._accepted or self._measured:
            tasks = joined(rows(TASK, 0), *self._measured, *(tasks for tasks, _ in self._accepted))
            self._charge(tasks, None, None)
            self._accepted.clear()
            self._measured.clear()

    def _charge(self, tasks: Table, until: int | Ids | None, reason: int | Ids | None) -> None:
        """Charges TASK rows up to an instant, None: to their ends; and says why they do not count, if so."""
        if self.link is None:
            spent = spent_alone(self.world, tasks, until)
        else:
            spent = self.link.settle(tasks["ticket"])
        self._ledger.charge(spent, reason)
        self._spans += spans(tasks, spent, reason, self.timeline)

    def _evaluate(self, version: int) -> None:
        if version != self._evaluated:
            self._metrics = self.plane.evaluate()  # it may become known later: whoever looks at it waits
            self._evaluated = version

    def _time_is_up(self) -> bool:
        """Asked once a version: what it says decides whether this version is evaluated."""
        return self.outside.wall_secs is not None and self.wall_secs >= self.outside.wall_secs

    def _end_outside(self, record: Record, time_is_up: bool) -> None:
        """Ends the run for a reason that only this shell can see."""
        self._out = self.state.tasks
        if self.outside.reached(record.metrics):
            value = record.metrics[self.outside.metric]
            why = f"{self.outside.metric} {value:.4f} reached the target {self.outside.target:g}"
            self.state, commands = end(self.state, "target", why)
        elif time_is_up:
            self.state, commands = end(
                self.state, "wall_secs", f"{self.wall_secs:.1f} s of wall time are over"
            )
        else:
            return
        self._carry_out(commands)
        sent = self._ledger.num_sent
        if self._ledger == Ledger(num_sent=sent, num_discarded=sent):
            self._ledger = Ledger()  # sent and withdrawn at the same instant: it cost nothing

    def _record(self, reports: Table | None) -> Record:
        """The record of the version that is done; the next one starts with an empty ledger."""
        metrics, self._metrics = self._metrics, NO_METRICS
        costs, self._ledger = self._ledger, Ledger()
        told, self._spans = sorted(self._spans, key=lambda span: (span.sent_secs, span.client)), []
        good = rows(TASK, 0) if reports is None else reports[reports["refused"] == 0]
        return Record(
            version=self.state.version,
            now_secs=to_secs(self.state.now_ns),
            wall_secs=self.wall_secs,
            loss=None if reports is None else mean_loss(good),
            metrics=metrics,
            num_tested=None if metrics is NO_METRICS else self.num_tested,
            num_accepted=len(good),
            num_refused=0 if reports is None else len(reports) - len(good),
            clients=tuple(good["client"].tolist()),
            num_online=self.world.num_online(self.state.now_ns),
            spans=tuple(told),
            surrogate=self.surrogate,
            epsilon=None if self.epsilon is None else self.epsilon(self.state.version),
            **costs.columns(self.power),
        )
