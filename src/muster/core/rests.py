"""Clients that rest: who has had a task is not asked again for a while.

Pace steering seen from the server (K. Bonawitz et al.: Towards Federated Learning at Scale, MLSys 2019,
arXiv:1902.01046, section 2.3): a device that reported is told when to come back. Only who rests now is kept,
so the table does not grow with the population.
"""

from __future__ import annotations

import numpy as np

from .tables import Ids, Kind, Purpose, Table, frozen, joined, rows, taken

REST = np.dtype([("client", "i8"), ("until", "i8")])
"""A client, and the first instant (ns) at which it may be asked again."""
NOBODY = frozen(rows(REST, 0))


def rested(rests: Table, clients: Ids, ended_ns: Ids | int, rest_ns: int, now_ns: int) -> Table:
    """REST rows and `clients` whose tasks ended at `ended_ns`, without those whose rest is over by now."""
    more = rows(REST, len(clients), client=clients, until=np.asarray(ended_ns, np.int64) + rest_ns)
    return frozen(joined(taken(rests, rests["until"] > now_ns), more))


def tasks_ended(tasks: Table, told: Table) -> tuple[Ids, Ids]:
    """The clients whose tasks of training end by EVENT rows, and when (ns), i64[K] each.

    A task that was out ends with its first `Arrived` or `Lost`.

    Args:
        tasks: TASK rows, before the events.
        told: EVENT rows.

    """
    out = taken(tasks, ~tasks["arrived"] & (tasks["work"] == Purpose.TRAIN))
    ends = (told["kind"] == Kind.ARRIVED) | (told["kind"] == Kind.LOST)
    found = taken(told, ends & np.isin(told["ticket"], out["ticket"]))
    tickets, first = np.unique(found["ticket"], return_index=True)
    return out["client"][np.searchsorted(out["ticket"], tickets)], found["now"][first]


def resting(rests: Table, now_ns: int) -> Ids:
    """The clients that may not be asked now, i64[K]."""
    return np.asarray(rests["client"][rests["until"] > now_ns], np.int64)


def next_end(rests: Table, now_ns: int) -> int | None:
    """When the next rest is over (ns); None if nobody rests."""
    left = rests["until"][rests["until"] > now_ns]
    return int(left.min()) if len(left) else None
