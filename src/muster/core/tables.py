"""The vocabulary: what can happen (events) and what can be asked (commands), as tables of rows.

A table is a NumPy structured array: one row on a network, thousands in a simulation. Times are
integer nanoseconds since the start of the run, so that 0.1 s + 0.2 s is 0.3 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Table: TypeAlias = npt.NDArray[Any]
Ids: TypeAlias = npt.NDArray[np.int64]

SECOND = 1_000_000_000
"""Nanoseconds in a second."""


def to_ns(secs: float) -> int:
    """Seconds as integer nanoseconds, rounded to the nearest."""
    return round(secs * SECOND)


def to_secs(ns: int) -> float:
    """Integer nanoseconds as seconds."""
    return ns / SECOND


class Kind(IntEnum):
    """What happened. The values order rows of one instant: arrivals first, timers last."""

    STARTED = 0
    ARRIVED = 1
    PROGRESSED = 2
    LOST = 3
    LEFT = 4
    JOINED = 5
    WOKE = 6
    ADVANCED = 7
    MEASURED = 8


class Reason(IntEnum):
    """Why a task did not count: `Lost` and `Discard` carry it."""

    NONE = 0
    DROPPED = 1
    """The client failed before it reported."""
    REJOINED = 2
    """The client joined anew while the server still waited for its old task."""
    LEFT = 3
    """The client said goodbye with a task out."""
    LATE = 4
    """The round closed without it."""
    STALE = 5
    """It was based on a model that is too old."""
    ABANDONED = 6
    """The round it belonged to failed."""
    STOPPED = 7
    """The run ended."""
    OFFLINE = 8
    """The client went offline before it reported."""


class Purpose(IntEnum):
    """What a task is for."""

    TRAIN = 0
    MEASURE = 1
    """Load the model, say how good it is on the client's own examples, and send nothing else."""


ANSWER_BYTES = 64
"""What a client sends that has measured: a few numbers."""


class Lease(IntEnum):
    """Whether a task's number of steps is settled when it is sent, or asked for on the way."""

    NONE = 0
    """It reports when its steps are made."""
    TRAINING = 1
    """It says `Progressed` when its steps are made, and waits to be told whether to go on."""
    SENDING = 2
    """It has been told to send its update."""


class Refusal(IntEnum):
    """Why the gate refused an update that arrived; 0 means that it counts."""

    NONE = 0
    NON_FINITE = 1
    TOO_LARGE = 2
    BAD_WEIGHT = 3
    WRONG_SHAPE = 4


EVENT = np.dtype(
    [
        ("now", "i8"),  # ns
        ("kind", "i1"),
        ("client", "i8"),
        ("ticket", "i8"),  # of Woke: the timer's number; of Advanced and Measured: the version
        ("steps", "i4"),
        ("secs", "f8"),  # the client's compute seconds; of Progressed: of one of its last steps
        ("send_secs", "f8"),  # of Progressed: what sending its update would take
        ("wait_secs", "f8"),  # of Progressed: how long its task was out before the client asked for it
        ("reason", "i1"),
    ]
)
"""One row an event, in order of (now, kind, client)."""

TASK = np.dtype(
    [
        ("ticket", "i8"),
        ("client", "i8"),
        ("version", "i8"),
        ("sent_at", "i8"),  # ns
        ("attempt", "i4"),  # how many tasks this client had before
        ("steps", "i4"),  # mini-batch steps that the pace decided on; 0: what the job's train section says
        ("arrived", "?"),  # reported, but neither accepted nor discarded yet
        ("arrived_at", "i8"),  # ns; 0 until then
        ("lease", "i1"),  # Lease: whether it asks again after its steps
        ("done", "i4"),  # of a leased task: steps made, as it last said
        ("since", "i8"),  # ns; of a leased task: when it was last told what to do
        ("work", "i1"),  # Purpose
    ]
)
"""One row a task that the server waits for or has not decided on."""

REPORT = np.dtype(
    [
        ("ticket", "i8"),
        ("client", "i8"),
        ("num_examples", "i4"),
        ("num_steps", "i4"),
        ("staleness", "i4"),  # versions between the model it was sent and the one it moves
        ("loss", "f8"),  # mean over the examples trained, as they were trained
        ("loss_sq_mean", "f8"),  # mean of the squared loss per example
        ("loss_before", "f8"),  # of the model received, over all the client's examples; NaN: not measured
        ("norm", "f8"),  # Euclidean, of the update's parameters as they arrived
        ("a_norm", "f8"),  # gradient steps that the update is worth (FedNova's sum of coefficients)
        ("secs", "f8"),  # seconds of training on the client's device; the shell knows them
        ("took_secs", "f8"),  # from being sent to its report, links included; the shell copies it from Accept
        ("refused", "i1"),
    ]
)
"""One row an accepted update: all that the control plane may learn about what training measured."""


MEASURED = np.dtype(
    [
        ("ticket", "i8"),
        ("client", "i8"),
        ("num_examples", "i4"),
        ("loss", "f8"),  # mean, of the model that it was sent, over all its examples; NaN: it has none
        ("accuracy", "f8"),  # NaN: it has none, or the job's task knows no accuracy
        ("took_secs", "f8"),  # from being sent to its report; the shell copies it from Measure
    ]
)
"""One row a client that a select asked and that has reported."""


def rows(dtype: np.dtype[Any], count: int, **columns: Any) -> Table:
    """A table of `count` rows with the named columns set and the others zero."""
    table = np.zeros(count, dtype)
    for name, values in columns.items():
        table[name] = values
    return table


def taken(table: Table, which: npt.NDArray[Any]) -> Table:
    """The rows that a mask or indices name: `table[which]`, by whole rows, which is several times faster."""
    return np.asarray(table.view(np.dtype((np.void, table.itemsize)))[which].view(table.dtype))


def joined(first: Table, *others: Table) -> Table:
    """A new table with the rows of tables of one kind: `np.concatenate`, by whole rows."""
    whole = np.dtype((np.void, first.itemsize))
    return np.concatenate([table.view(whole) for table in (first, *others)]).view(first.dtype)


def frozen(table: Table) -> Table:
    """The same array, made read-only: what leaves `step` can be shared, never written to."""
    table.flags.writeable = False
    return table


@dataclass(frozen=True)
class Events:
    """What one call of `step` is told: rows in key order, and what belongs to an `Advanced` or `Measured`."""

    table: Table
    reports: Table = field(default_factory=lambda: rows(REPORT, 0))
    measured: Table = field(default_factory=lambda: rows(MEASURED, 0))

    @classmethod
    def one(cls, kind: Kind, now_ns: int, ticket: int = 0, reports: Table | None = None) -> Events:
        """A single row that no client caused: Started, Woke(number) or Advanced(version)."""
        table = rows(EVENT, 1, now=now_ns, kind=kind, client=-1, ticket=ticket)
        return cls(table) if reports is None else cls(table, reports)

    @classmethod
    def answer(cls, now_ns: int, version: int, measured: Table) -> Events:
        """`Measured(version)`: what the clients found who were asked about the model of that version."""
        return replace(cls.one(Kind.MEASURED, now_ns, version), measured=measured)


@dataclass(frozen=True)
class Appetite:
    """How far the shell may deliver in one call.

    Rows in key order up to the `num_arrivals`-th arrival, the first timer, or all that is pending.
    """

    num_arrivals: int = 1
    stop_at_loss: bool = False
    """Also stop after the first `Lost` row: the pace answers each loss at its instant."""
    num_losses: int | None = None
    """Also stop after so many `Lost` rows: `step` may have to give up with the last of them."""
    whole_instant: bool = False
    """Instead: all rows of the next instant, and no others; who asks at one instant is answered at once."""
    together: int = 1
    """If more than 1: a shell may instead deliver rows up to so many arrivals, losses among them. Each is
    answered at its own instant, so it must see to it that no task sent meanwhile ends before the last row. Of
    `num_losses` one is left out, and no timer is passed."""


@dataclass(frozen=True)
class Train:
    """Send these tasks out now. `tasks` has the columns of TASK."""

    tasks: Table


@dataclass(frozen=True)
class Accept:
    """These updates count.

    `staleness` i64[K] says how many versions late each is, `took_secs` f64[K] how long it was on its way.
    """

    tickets: Ids
    staleness: Ids
    took_secs: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Continue:
    """These leased tasks make `steps` i64[K] more steps before they ask again."""

    tickets: Ids
    steps: Ids


@dataclass(frozen=True)
class Finish:
    """These leased tasks send their updates now."""

    tickets: Ids


@dataclass(frozen=True)
class Discard:
    """These tasks end without counting; the clients stop at their next step and are free at once."""

    tickets: Ids
    reason: Reason


@dataclass(frozen=True)
class Advance:
    """Fold what was accepted, move the model to `version`, then say `Advanced` at the same instant."""

    version: int


@dataclass(frozen=True)
class Measure:
    """All have reported who were asked about the model of `version`: say `Measured` at the same instant.

    `took_secs` f64[K] says how long each was on its way. It is the last command of its step.
    """

    version: int
    tickets: Ids
    took_secs: npt.NDArray[np.float64]


@dataclass(frozen=True)
class WakeAt:
    """Ring at `time_ns`. Each has a number, and only the newest is live."""

    time_ns: int
    number: int


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the model of this version; it takes no virtual time."""

    version: int


@dataclass(frozen=True)
class Stop:
    """The run is over. `why` is a sentence; `status` one of `rounds`, `virtual_secs`, `stalled`."""

    status: str
    why: str


Command: TypeAlias = (
    Train | Accept | Continue | Finish | Discard | Advance | Measure | WakeAt | Evaluate | Stop
)
