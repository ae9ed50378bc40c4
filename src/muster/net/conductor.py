"""The deployed world's shell around `step`: one event in, what it asks carried out on what has arrived.

It knows no network and no clock: the same entries give the same states, models and records, live, when
a killed server takes up its journal, and in a replay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm
from muster.core.ledger import SPENT, Ledger, spans
from muster.core.population import Draw, Everyone, Turns, one_by_one
from muster.core.record import Record, Span, mean_loss
from muster.core.state import ServerState, load_state, save_state
from muster.core.step import end, step
from muster.core.tables import (
    MEASURED,
    REPORT,
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
    Measure,
    Reason,
    Refusal,
    Stop,
    Table,
    Train,
    WakeAt,
    rows,
    taken,
    to_ns,
    to_secs,
)

from .journal import Entry, Note
from .reports import REASONS
from .roster import Roster

WAIT_NS = 60 * SECOND
"""Too few clients: asked again after so long, and whenever one joins."""


ANSWER = ("num_examples", "loss", "accuracy")
"""What a client says that was asked how good the model is."""


class Plane(Protocol):
    """The model and what moves it."""

    def advance(self, tasks: Table, staleness: Ids, keep: set[int]) -> Table:
        """Makes the next version from accepted TASK rows; returns their REPORT rows."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Metrics of the newest model."""
        ...

    def reserve(self) -> None:
        """Makes sure that there is room for the next version; raises OSError if the disk is full."""
        ...


@dataclass(frozen=True)
class Present:
    """Candidates: the clients that have joined and not left."""

    num_clients: int
    now_ns: int
    ids: Ids
    """Rising."""

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Uniform without replacement; when nobody is missing, as in a world that is always on."""
        if len(self.ids) == self.num_clients:
            return Everyone(self.num_clients, self.now_ns).sample(k, rng, but)
        able = self.ids[~np.isin(self.ids, but)]
        return rng.choice(able, min(k, len(able)), replace=False)

    def among(self, ids: Ids) -> Ids:
        """Those that are here, in the order given."""
        return ids[np.isin(ids, self.ids)]

    def everybody(self) -> npt.NDArray[np.bool_]:
        """Who is here."""
        flags = np.zeros(self.num_clients, bool)
        flags[self.ids] = True
        return flags

    def when(self, n: int, but: Ids) -> int | None:
        """Now, if so many are here; else, since more may join, later."""
        if n > self.num_clients:
            return None
        enough = np.count_nonzero(~np.isin(self.ids, but)) >= n
        return self.now_ns if enough else self.now_ns + WAIT_NS

    def sample_in_turn(self, turns: Turns, draw: Draw) -> Ids:
        """Of those that are here now: the conductor tells rows one by one, as they come."""
        return one_by_one(lambda _: self, turns, draw)


class Outcome(NamedTuple):
    """What became of an update."""

    what: str
    since: int
    """The first ticket of the tasks that were handed out after: only with those does its client begin with
    what it keeps of the update, however late it asks. So a journal says what each task began with."""


@dataclass
class Conductor:
    """A deployed run.

    Args:
        algorithm: The five parts.
        seed: Keys the selection's draws.
        roster: Who the clients are.
        state: From `initial_state`.
        plane: The model.
        tell: Called with each record.
        note: Called with what came of an entry, to be written behind it.
        model_sha256: Of the newest model.
        wall_secs: Wall time of the run so far.
        num_bytes: Bytes of one task's download.
        evaluates: False in a replay, which needs no metrics.
        num_tested: Test examples that are evaluated, if they are a sample.
        handed: Called with the TASK rows of tasks that clients get.
        timeline: Clients whose tasks are told one by one (Record.spans), ascending.
        epsilon: What so many versions of a private run give away; None: it is not private.

    """

    algorithm: Algorithm
    seed: int
    roster: Roster
    state: ServerState
    plane: Plane
    tell: Callable[[Record], None]
    note: Callable[[Note], None]
    model_sha256: Callable[[], str]
    wall_secs: Callable[[], float] = lambda: 0.0
    num_bytes: int = 0
    evaluates: bool = True
    num_tested: int | None = None
    handed: Callable[[Table], None] = lambda tasks: None
    timeline: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    epsilon: Callable[[int], float] | None = None
    begun: bool = False
    ended: Stop | None = None
    outcomes: dict[int, dict[int, Outcome]] = field(default_factory=dict)
    """Client -> ticket -> what became of its update, until the client has heard of it."""
    _handed: int = 0
    """The first ticket that no client has got yet."""
    arrived: dict[int, Entry] = field(default_factory=dict)
    """Ticket -> its arrival, until it is folded or discarded."""
    settled: list[int] = field(default_factory=list)
    """Tickets whose updates are not needed any more once a checkpoint has been written."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the version made last; empty if it was not evaluated."""
    wake: tuple[int, int] | None = None
    """When to be woken, and the timer's number."""
    norm_warning: float = math.inf
    """Warn of an accepted update whose norm is so many times the median of its version."""
    warnings: list[str] = field(default_factory=list)
    """What the operator should know; whoever tells it clears it."""
    touched: set[int] = field(default_factory=set)
    """Clients for which something has changed; whoever tells them clears it."""
    _out: Table = field(default_factory=lambda: rows(TASK, 0), init=False)
    _accepted: list[tuple[Table, Accept]] = field(default_factory=list, init=False)
    _ledger: Ledger = field(default_factory=Ledger, init=False)
    _spans: list[Span] = field(default_factory=list, init=False)
    _evaluated: int = field(default=-1, init=False)

    def task_of(self, client: int) -> Table | None:
        """The TASK row that a client has to work on, [1]; None if there is none."""
        tasks = self.state.tasks
        found = np.flatnonzero((tasks["client"] == client) & ~tasks["arrived"])
        return tasks[found] if len(found) else None

    def is_out(self, client: int, ticket: int) -> bool:
        """Whether the server waits for this update of this client."""
        task = self.task_of(client)
        return task is not None and int(task["ticket"][0]) == ticket

    def deliver(self, entry: Entry) -> None:
        """Does what an entry asks for: one call of `step`, and another if a version was made."""
        if self.over:
            return
        if entry.kind == Kind.JOINED:
            self.roster.seat(entry.client, entry.more)
        elif entry.kind == Kind.LEFT:
            self.roster.members[entry.client].present = False
            self.touched.add(entry.client)  # a client that waits for work is to join again, if it is there
        elif entry.kind == Kind.ARRIVED and self.is_out(entry.client, entry.ticket):
            self.arrived[entry.ticket] = entry
            if "measured" in entry.more:
                self._ledger.num_measured += 1
            else:
                refusal = Refusal(entry.more["refused"])
                fault = f"its update was refused: {REASONS[refusal]}" if refusal else ""
                self._judge(entry.client, fault)
        elif entry.kind == Kind.LOST and "failed" in entry.more and self.is_out(entry.client, entry.ticket):
            self._judge(entry.client, entry.more["failed"])
        elif entry.kind == Kind.STARTED:
            self.begun = True
            self._evaluate(0)
            self._record(None)
        if not self.begun:
            return
        commands = self._carry_out(self._step(Events(entry.row()), entry.reason))
        if any(isinstance(command, Advance) for command in commands):
            self._make_version()
        if self.ended is not None:
            self._close()

    def _judge(self, client: int, fault: str) -> None:
        """Counts what came of a task; who is put into quarantine is told."""
        if not self.roster.judge(client, fault):
            return
        member, left = self.roster.members[client], len(self.roster.present())
        verb = "is" if left == 1 else "are"
        self.warnings.append(
            f"{member.name} is in quarantine: {member.quarantined}; {left} of {self.roster.num_clients} "
            f"clients {verb} left"
        )
        self.touched.add(client)

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.ended is not None

    def end(self, status: str, why: str) -> None:
        """Ends the run for a reason that `step` cannot see."""
        self._out = self.state.tasks
        self.state, commands = end(self.state, status, why)
        self._carry_out(commands)
        self.note({"end": status, "why": why, "at": self.state.now_ns})
        self._close()

    def _close(self) -> None:
        """Writes the record of what the run has cost since its last version."""
        if self._ledger != Ledger() or self.metrics:
            self._record(None, complete=False)

    def _make_version(self) -> None:
        reports = self._advance()
        self.note({"made": self.state.version, "sha256": self.model_sha256()})
        self._compare_norms(reports[reports["refused"] == 0])
        commands = self._step(Events.one(Kind.ADVANCED, self.state.now_ns, self.state.version, reports))
        of_version = Discard | Evaluate | Stop
        self._carry_out([c for c in commands if isinstance(c, of_version)])
        self._record(reports)
        self._carry_out([c for c in commands if not isinstance(c, of_version)])

    def _compare_norms(self, good: Table) -> None:
        """A large update may be honest, so it counts; but it is told."""
        if len(good) < 3:
            return
        median = float(np.median(good["norm"]))
        for row in good[good["norm"] > self.norm_warning * median]:
            name = self.roster.members[int(row["client"])].name
            self.warnings.append(
                f"the update of {name} in version {self.state.version} has norm {row['norm']:.3g}, more than "
                f"deploy.norm_warning = {self.norm_warning:g} times the median, {median:.3g}"
            )

    def _step(self, events: Events, why: Reason = Reason.NONE) -> list[Command]:
        self._out = self.state.tasks
        now = int(events.table["now"][-1])
        here = Present(self.roster.num_clients, now, self.roster.present())
        self.state, commands = step(self.algorithm, self.seed, self.state, events, here)
        self._count_lost(commands, why)
        return commands

    def _count_lost(self, commands: list[Command], why: Reason) -> None:
        """Finds the tasks that an event has ended, and charges them. Who has measured is not lost."""
        kept = [self.state.tasks["ticket"]]
        kept += [c.tickets for c in commands if isinstance(c, Accept | Discard)]
        kept += [np.array([t for t, entry in self.arrived.items() if "measured" in entry.more], np.int64)]
        gone = self._out[~np.isin(self._out["ticket"], np.concatenate(kept))]
        if len(gone):
            self._ledger.num_lost += len(gone)
            self._charge(gone, self.state.now_ns - gone["sent_at"], why)
            self._settle(gone, "lost")

    def _charge(self, tasks: Table, took_ns: Ids, why: Reason | None) -> None:
        """Charges TASK rows: device time, the model that was sent, and what has come of it.

        How long computing took is what the client says, sending what the server has seen; the rest of the
        time is loading.
        """
        spent = rows(SPENT, len(tasks), down_bytes=self.num_bytes, device=took_ns)
        for row, ticket in zip(spent, tasks["ticket"].tolist(), strict=True):
            if (entry := self.arrived.get(ticket)) is not None:
                row["up_bytes"] = int(entry.more["bytes"])
                row["compute"] = min(to_ns(entry.secs), row["device"])
                up = min(to_ns(entry.send_secs), row["device"] - row["compute"])
                row["down"] = row["device"] - row["compute"] - up
        self._ledger.charge(spent, why)
        self._spans += spans(tasks, spent, why, self.timeline)

    def _carry_out(self, commands: list[Command]) -> list[Command]:
        """Carries out what a step said; returns it, or what the next said if an answer was due at once."""
        for command in commands:
            match command:
                case Train(tasks):
                    self._ledger.num_sent += len(tasks)
                    self._handed = int(tasks["ticket"].max()) + 1
                    self.handed(tasks)
                    self.touched |= set(tasks["client"].tolist())
                case Accept(tickets):
                    self._accepted.append((self._find(tickets), command))
                case Discard(tickets, reason):
                    self._discard(self._find(tickets), reason)
                case WakeAt(time_ns, number):
                    self.wake = time_ns, number
                case Measure(version, tickets, took):
                    return self._carry_out(self._step(self._answer(version, tickets, took)))
                case Evaluate(version):
                    self._evaluate(version)
                case Stop():
                    self.ended = command
                case Continue(tickets) | Finish(tickets):
                    self.touched |= set(self._find(tickets)["client"].tolist())
                case Advance():
                    pass  # the caller folds what has been accepted, then says `Advanced`
        return commands

    def _answer(self, version: int, tickets: Ids, took: npt.NDArray[np.float64]) -> Events:
        """What those have found who were asked, and what it took them."""
        tasks = self._find(tickets)
        self._charge(tasks, np.rint(took * SECOND).astype(np.int64), None)
        found = rows(MEASURED, len(tasks), ticket=tickets, client=tasks["client"], took_secs=took)
        for row, ticket in zip(found, tickets.tolist(), strict=True):
            said = self.arrived.pop(ticket).more["measured"]
            row["num_examples"], row["loss"], row["accuracy"] = (said[name] for name in ANSWER)
        return Events.answer(self.state.now_ns, version, found)

    def _find(self, tickets: Ids) -> Table:
        """The tasks of tickets that were out before the last step, or have arrived in it."""
        return taken(self._out, np.searchsorted(self._out["ticket"], tickets))

    def _discard(self, tasks: Table, reason: Reason) -> None:
        self._charge(tasks, self.state.now_ns - tasks["sent_at"], reason)
        if reason == Reason.LATE:
            self._ledger.num_late += len(tasks)
        else:
            self._ledger.num_discarded += len(tasks)
        self._settle(tasks, "discarded")

    def _settle(self, tasks: Table, what: str) -> None:
        """Notes what became of tasks, for their clients, and lets go of their updates."""
        for ticket, client in zip(tasks["ticket"].tolist(), tasks["client"].tolist(), strict=True):
            self.outcomes.setdefault(client, {})[ticket] = Outcome(what, self._handed)
            self.arrived.pop(ticket, None)
            self.settled.append(ticket)
            self.touched.add(client)

    def _advance(self) -> Table:
        tasks = np.concatenate([rows(TASK, 0), *(tasks for tasks, _ in self._accepted)])
        staleness = np.concatenate([np.zeros(0, np.int64), *(said.staleness for _, said in self._accepted)])
        took = np.concatenate([np.zeros(0), *(said.took_secs for _, said in self._accepted)])
        self._accepted.clear()
        reports = self.plane.advance(tasks, staleness, set(self.state.tasks["version"].tolist()))
        reports["took_secs"] = took
        self._charge(tasks, np.rint(took * SECOND).astype(np.int64), None)
        good = reports["refused"] == 0
        self._settle(tasks[good], "accepted")
        self._settle(tasks[~good], "refused")
        return reports

    def _evaluate(self, version: int) -> None:
        if self.evaluates and version != self._evaluated:
            self.metrics = dict(self.plane.evaluate())
            self._evaluated = version

    def _record(self, reports: Table | None, complete: bool = True) -> None:
        """Tells the record of the version that is done; the next one starts with empty costs."""
        metrics, self.metrics = self.metrics, {}
        costs, self._ledger = self._ledger, Ledger()
        told, self._spans = sorted(self._spans, key=lambda span: (span.sent_secs, span.client)), []
        good = rows(REPORT, 0) if reports is None else reports[reports["refused"] == 0]
        record = Record(
            version=self.state.version if complete else self.state.version + 1,
            now_secs=to_secs(self.state.now_ns),
            wall_secs=self.wall_secs(),
            loss=mean_loss(good),
            metrics=metrics,
            num_tested=self.num_tested if metrics else None,
            num_accepted=len(good),
            num_refused=0 if reports is None else len(reports) - len(good),
            clients=tuple(good["client"].tolist()),
            spans=tuple(told),
            complete=complete,
            epsilon=None if self.epsilon is None else self.epsilon(self.state.version),
            **costs.columns(None),
        )
        self.tell(record)

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The control plane between two entries, as JSON data and columns; `load` is the inverse.

        Only right after a version was made: nothing is accepted and not yet folded then.
        """
        assert not self._accepted, "a checkpoint is made when a version is"
        scalars, columns = save_state(self.state)
        body = {
            "state": scalars,
            "members": self.roster.save(),
            "outcomes": {str(c): {str(t): [*o] for t, o in of.items()} for c, of in self.outcomes.items()},
            "arrived": [entry.to_json() for entry in self.arrived.values()],
            "wake": self.wake,
            "num_sent": self._ledger.num_sent,
        }
        return body, columns

    def load(self, body: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        """Puts a saved control plane back."""
        self.state = load_state(body["state"], columns)
        self.begun, self._evaluated = True, self.state.version
        self.roster.load(body["members"])
        self.outcomes = {
            int(c): {int(t): Outcome(*o) for t, o in of.items()} for c, of in body["outcomes"].items()
        }
        self._handed = self.state.next_ticket
        entries = [Entry.from_json(entry) for entry in body["arrived"]]
        self.arrived.clear()
        self.arrived.update({entry.ticket: entry for entry in entries})
        self.wake = None if body["wake"] is None else tuple(body["wake"])
        self._ledger.num_sent = int(body["num_sent"])
