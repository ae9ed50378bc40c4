"""Worlds of a dozen clients whose every duration, loss and absence a test chooses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from muster.core.population import one_by_one
from muster.core.randomness import uniform, uniforms
from muster.core.tables import EVENT, SECOND, Kind, Lease, Reason, rows
from muster.devices.availability import FAR
from muster.devices.world import TIMING

Duration = Callable[[int, int], int]
"""(client, how many tasks it had before) -> ns from sending to the report."""
Loss = Callable[[int, int], int | None]
"""(client, how many tasks it had before) -> ns after which the task is lost; None: it is not."""


def keyed(seed: int = 0, low_secs: float = 1.0, high_secs: float = 30.0) -> Duration:
    """Durations drawn by key, of as many different lengths as there are tasks."""

    @cache
    def duration(client: int, attempt: int) -> int:
        share = uniform(seed, "toy duration", client, attempt)
        return int((low_secs + share * (high_secs - low_secs)) * SECOND)

    return duration


def never(client: int, attempt: int) -> int | None:
    return None


def at_times(chance: float, seed: int = 0, after_ns: int = SECOND) -> Loss:
    """Every so many tasks are lost, by key, `after_ns` after they were sent."""

    @cache
    def loss(client: int, attempt: int) -> int | None:
        return after_ns if uniform(seed, "toy loss", client, attempt) < chance else None

    return loss


@dataclass(frozen=True)
class Present:
    """Candidates by a plain list: slow, and plain to read."""

    world: ToyWorld
    now_ns: int

    @property
    def num_clients(self) -> int:
        return self.world.num_clients

    def _ids(self, now_ns: int, but: Collection[int]) -> list[int]:
        return [c for c in range(self.num_clients) if self.world.is_present(c, now_ns) and c not in but]

    def sample(self, k, rng, but):
        ids = np.array(self._ids(self.now_ns, set(but.tolist())), np.int64)
        return rng.permutation(ids)[:k]

    def among(self, ids):
        return ids[[self.world.is_present(int(c), self.now_ns) for c in ids]]

    def everybody(self):
        return np.array([self.world.is_present(c, self.now_ns) for c in range(self.num_clients)])

    def when(self, n, but):
        busy = set(but.tolist())
        for time in self.world.changes_after(self.now_ns):
            if len(self._ids(time, busy)) >= n:
                return time
        return None

    def sample_in_turn(self, turns, draw):
        return one_by_one(lambda now_ns: replace(self, now_ns=now_ns), turns, draw)


@dataclass(frozen=True)
class ToyWorld:
    """A `sim.simulation.World`.

    Args:
        num_clients: Rows 0..num_clients-1.
        duration: How long tasks take.
        loss: Which tasks are lost, and after how long (if the task would not be over by then).
        shifts: Client -> (start, end) pairs in ns, in which it is present; who is not listed always is.
        dies_at: From this instant (ns) on nobody is there, and what is out is lost.

    """

    num_clients: int = 12
    duration: Duration = field(default_factory=keyed)
    loss: Loss = never
    shifts: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    dies_at: int | None = None
    down_bytes: int = 400
    up_bytes: int = 400
    legs: Callable[[int], tuple[int, int, int]] | None = None
    """Client -> ns of loading, of a step, and of sending, of leased tasks; default: shares of `duration`."""
    query_ns: int = 0

    def is_present(self, client: int, now_ns: int) -> bool:
        if self.dies_at is not None and now_ns >= self.dies_at:
            return False
        return client not in self.shifts or any(a <= now_ns < b for a, b in self.shifts[client])

    def changes_after(self, now_ns: int) -> list[int]:
        """Now, and the later instants at which somebody comes."""
        starts = {a for shifts in self.shifts.values() for a, _ in shifts if a > now_ns}
        return [now_ns, *sorted(starts)]

    def num_online(self, now_ns: int) -> int:
        return sum(self.is_present(client, now_ns) for client in range(self.num_clients))

    def present(self, now_ns: int) -> Present:
        return Present(self, now_ns)

    def timing(self, tasks):
        total = self._total(tasks)
        down, compute = total // 4, total // 2
        table = rows(TIMING, len(tasks), down=down, compute=compute, up=total - down - compute)
        for i in np.flatnonzero(tasks["lease"]):
            load, step, send = self._legs(tasks[i])
            table[i] = (load, step * int(tasks[i]["steps"]), send)
        return table

    def _total(self, tasks):
        pairs = zip(tasks["client"].tolist(), tasks["attempt"].tolist(), strict=True)
        return np.array([self.duration(c, a) for c, a in pairs], np.int64)

    def _lost_at(self, task) -> int | None:
        """The first instant at which something takes the client away; None: nothing does."""
        client, sent = int(task["client"]), int(task["sent_at"])
        after = self.loss(client, int(task["attempt"]))
        ends = [b for a, b in self.shifts.get(client, ()) if a <= sent < b]
        ends += [] if after is None else [sent + after]
        ends += [] if self.dies_at is None else [self.dies_at]
        return max(min(ends), sent + 1) if ends else None

    def losses(self, tasks, timing):
        lost_at = [self._lost_at(task) for task in tasks]
        after = [FAR if at is None else at - int(t["sent_at"]) for at, t in zip(lost_at, tasks, strict=True)]
        return np.array(after, np.int64), np.full(len(tasks), Reason.DROPPED, np.int8)

    def reports(self, tasks, timing):
        table = rows(EVENT, len(tasks), client=tasks["client"], ticket=tasks["ticket"], kind=Kind.ARRIVED)
        table["now"] = tasks["sent_at"] + self._total(tasks)
        for i in np.flatnonzero(tasks["lease"]):
            self._next_word(table[i], tasks[i])
        return table

    def _next_word(self, row, task) -> None:
        """What a leased task says next: that its steps are made, or its report."""
        load, step, send = self._legs(task)
        told = int(task["since"]) + self.query_ns // 2
        if task["lease"] == Lease.SENDING:
            row["now"], row["steps"] = told + send, task["done"]
        else:
            begins = told if task["done"] else int(task["sent_at"]) + load
            more = int(task["steps"] - task["done"])
            row["now"], row["kind"] = (
                begins + more * step + self.query_ns - self.query_ns // 2,
                Kind.PROGRESSED,
            )
            row["steps"], row["secs"], row["send_secs"] = task["steps"], step / SECOND, send / SECOND

    def _legs(self, task) -> tuple[int, int, int]:
        if self.legs is not None:
            return self.legs(int(task["client"]))
        total = self.duration(int(task["client"]), int(task["attempt"]))
        return total // 4, total // 2, total - total // 4 - total // 2

    def outcomes(self, tasks):
        table = self.reports(tasks, None)
        for row, task in zip(table, tasks, strict=True):
            lost_at = self._lost_at(task)
            if lost_at is not None and lost_at <= row["now"]:
                row["now"], row["kind"], row["reason"] = lost_at, Kind.LOST, Reason.DROPPED
        return table[np.lexsort((table["client"], table["kind"], table["now"]))]


def comings_and_goings(num_clients: int = 12, hours: int = 2, seed: int = 0, **settings) -> ToyWorld:
    """Everybody is there for two minutes, then away for one to three, each at times of its own."""
    shifts = {}
    for client in range(num_clients):
        away = uniforms(seed, "toy away", np.full(100, client), np.arange(100))
        spans, now = [], int(away[0] * 120 * SECOND)
        for share in away[1:]:
            spans.append((now, now + 120 * SECOND))
            now += int((180 + 120 * share) * SECOND)
            if now > hours * 3600 * SECOND:
                break
        shifts[client] = tuple(spans)
    return ToyWorld(num_clients, shifts=shifts, **settings)
