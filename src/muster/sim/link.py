"""The server's own link, shared by all that load and send at a time: a fluid model, max-min fair.

Every transfer has a cap, the client's own link. The server's link gives each as much as it gives the
others, less only to those whose cap is lower; what they leave is shared again (D. Bertsekas, R. Gallager:
Data Networks, 2nd ed. 1992, section 6.5.2). So whenever a transfer begins or ends, all others are timed
anew, and when a task will be over is known only when it is. Rows are made an instant at a time.

What is in flight here cannot be derived from the tasks that are out: it is saved with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.ledger import SPENT
from muster.core.tables import EVENT, SECOND, Ids, Kind, Lease, Table, frozen, joined, rows, taken
from muster.devices.availability import FAR

from .costs import Timed, sent_bytes

MAX_FLOWS = 2_000
"""Tasks that may be out at once: each change looks at all of them."""

DOWN, COMPUTE, UP, OVER = 0, 1, 2, 3
ASKS = 4
"""A leased task has made its steps and waits to be told what to do."""

FLOW = np.dtype(
    [
        *EVENT.descr,  # the task's row when it is over; `now` is when it ended
        ("sent_at", "i8"),
        ("leg", "i1"),  # which of the three below is at hand; OVER after the last
        ("ended", "?"),  # over, lost or stopped
        ("down", "i8"),  # ns that each leg takes alone, at the client's own speed
        ("compute", "i8"),
        ("up", "i8"),
        ("up_bytes", "i8"),
        ("left", "f8"),  # what the leg at hand still takes alone, as of the last change; ns
        ("speed", "f8"),  # share of the client's own speed, above 0, at most 1
        ("ends", "i8"),  # when the leg at hand ends, as things stand
        ("loaded_at", "i8"),  # when computing began
        ("lease", "i1"),  # Lease
        ("asks_after", "i8"),  # ns; what asking takes on top of a leased task's steps
        ("lost_at", "i8"),
        ("why", "i1"),  # Reason of being lost then
    ]
)
"""One row a task that has not been charged yet."""


@dataclass(frozen=True)
class Flows:
    """What a link is at an instant; the table is never written to."""

    table: Table
    since: int = 0
    """Instant (ns) of the last change, as of which `left` is."""


NONE = Flows(frozen(rows(FLOW, 0)))


class ServerLink:
    """Both ways of the server's link, and the tasks that are under way.

    Args:
        down_kbps: Capacity towards the clients, in 1,000 bits a second; None: as much as they can take.
        up_kbps: The same from the clients.
        down_bytes: Bytes of one task's download.
        up_bytes: Bytes of one update's upload.
        flows: From `mark`, for a run that goes on.

    """

    def __init__(
        self,
        down_kbps: float | None,
        up_kbps: float | None,
        down_bytes: int,
        up_bytes: int,
        flows: Flows = NONE,
    ) -> None:
        self._capacity = {DOWN: _bits(down_kbps), UP: _bits(up_kbps)}
        self._down_bytes, self._up_bytes = down_bytes, up_bytes
        self.restore(flows)

    def mark(self) -> Flows:
        """What goes into a checkpoint."""
        return Flows(frozen(self._flows.copy()), self._since)

    def restore(self, flows: Flows) -> None:
        """Goes back to a mark."""
        self._flows, self._since = flows.table.copy(), flows.since

    def send(self, world: Timed, tasks: Table) -> None:
        """Starts the downloads of TASK rows, at the instant of their sending, up to which it has run."""
        timing = world.timing(tasks)
        after, why = world.losses(tasks, timing)
        reports = world.reports(tasks, timing)
        columns: dict[str, Any] = {name: reports[name] for name in EVENT.names or ()}
        legs: dict[str, Any] = {name: timing[name] for name in ("down", "compute", "up")}
        sent_at = tasks["sent_at"]
        lost_at = np.where(after < FAR, sent_at + np.minimum(after, FAR - 1), FAR)
        new = rows(FLOW, len(tasks), **columns, **legs, sent_at=sent_at, lost_at=lost_at, why=why)
        new["left"], new["lease"] = timing["down"], tasks["lease"]
        new["up_bytes"] = sent_bytes(tasks, self._up_bytes)
        # what is told when it asks: computing and asking, after the download that it shares with others
        asks = reports["now"] - sent_at - timing["down"] - timing["compute"]
        new["asks_after"] = np.where(new["lease"] == Lease.TRAINING, asks, 0)
        self._pass(int(sent_at[0]))
        self._flows = joined(self._flows, new)
        self._share()

    def answer(self, world: Timed, tasks: Table) -> None:
        """Leased tasks that asked go on computing, or begin to send, at the instant they are told."""
        now = int(tasks["since"][0])
        timing = world.timing(tasks)
        reports = world.reports(tasks, timing)
        self._pass(now)
        flows = self._flows
        at = np.searchsorted(flows["ticket"], tasks["ticket"])
        goes_on = tasks["lease"] == Lease.TRAINING
        for name in ("kind", "steps", "secs", "send_secs"):
            flows[name][at] = reports[name]
        flows["lease"][at] = tasks["lease"]
        flows["compute"][at] = timing["compute"]
        flows["leg"][at] = np.where(goes_on, COMPUTE, UP)
        flows["left"][at] = flows["up"][at]
        # sending begins when the answer is there; the time of that is small, and shares no link
        flows["asks_after"][at] = 0
        flows["ends"][at] = np.where(goes_on, reports["now"], now)
        self._share()

    def stop(self, tickets: Ids, now: int) -> None:
        """Ends tasks at the instant, if they are not over."""
        self._pass(now)
        flows = self._flows
        out = np.isin(flows["ticket"], tickets) & ~flows["ended"]
        flows["ended"][out], flows["now"][out] = True, now
        self._share()

    def run(self, until: int) -> Table:
        """EVENT rows, in key order, of the next instant that has any; none if that is after `until` (ns)."""
        while True:
            now = self._next()
            if now > until:
                return rows(EVENT, 0)
            over = np.zeros(len(self._flows), bool)
            while self._next() == now:  # legs that take no time end at once
                over |= self._change(now)
            if over.any():
                return _told(self._flows[over])

    def told(self, tickets: Ids) -> Table:
        """EVENT rows, in key order, of those tasks that are over."""
        return _told(self._flows[self._flows["ended"] & np.isin(self._flows["ticket"], tickets)])

    def settle(self, tickets: Ids) -> Table:
        """SPENT rows for tasks that have ended, which are forgotten here."""
        at = np.searchsorted(self._flows["ticket"], tickets)  # tickets grow
        flows = self._flows[at]
        spent = rows(SPENT, len(flows))
        for leg, name in ((DOWN, "down"), (UP, "up")):
            done = np.where(flows["leg"] > leg, 1.0, 0.0)
            here = (flows["leg"] == leg) & (flows[name] > 0)
            done[here] = 1.0 - flows["left"][here] / flows[name][here]
            spent[f"{name}_bytes"] = np.rint(done * self._bytes(flows, leg))
        spent["device"] = flows["now"] - flows["sent_at"]
        loaded_at = np.where(flows["leg"] == DOWN, flows["now"], flows["loaded_at"])
        spent["down"] = loaded_at - flows["sent_at"]
        spent["compute"] = np.where(flows["leg"] > COMPUTE, flows["compute"], flows["now"] - loaded_at)
        kept = np.ones(len(self._flows), bool)
        kept[at] = False
        self._flows = taken(self._flows, kept)
        return spent

    def _next(self) -> int:
        """The next instant at which a leg ends or a task is lost."""
        out = self._flows[~self._flows["ended"]]
        return int(np.minimum(out["ends"], out["lost_at"]).min(initial=FAR + 1))

    def _change(self, now: int) -> npt.NDArray[np.bool_]:
        """What happens at the next instant; returns which rows are over with it."""
        self._pass(now)
        flows = self._flows
        out = ~flows["ended"]
        lost = out & (flows["lost_at"] <= now)
        done = out & ~lost & (flows["ends"] <= now)
        asks = done & (flows["leg"] == COMPUTE) & (flows["lease"] == Lease.TRAINING)
        flows["leg"][asks], flows["ends"][asks], flows["now"][asks] = ASKS, FAR + 1, now
        done &= ~asks
        flows["leg"][done] += 1
        for leg, name in ((COMPUTE, "compute"), (UP, "up")):
            begins = done & (flows["leg"] == leg)
            flows["left"][begins] = flows[name][begins]
            flows["ends"][begins] = now + flows[name][begins] + flows["asks_after"][begins]
        flows["loaded_at"][done & (flows["leg"] == COMPUTE)] = now
        over = lost | (done & (flows["leg"] == OVER))
        flows["ended"][over], flows["now"][over] = True, now
        flows["kind"][lost], flows["reason"][lost] = Kind.LOST, flows["why"][lost]
        flows["steps"][lost], flows["secs"][lost] = 0, 0.0
        self._share()
        return np.asarray(over | asks, np.bool_)

    def _pass(self, now: int) -> None:
        """Lets time pass for what is being transferred."""
        flows = self._flows
        moving = ~flows["ended"] & ((flows["leg"] == DOWN) | (flows["leg"] == UP))
        passed = (now - self._since) * flows["speed"][moving]
        flows["left"][moving] = np.maximum(flows["left"][moving] - passed, 0.0)
        self._since = now

    def _bytes(self, flows: Table, leg: int) -> Ids:
        """What each of FLOW rows loads or sends, i64[K]."""
        return np.asarray(flows["up_bytes"] if leg == UP else np.full(len(flows), self._down_bytes), np.int64)

    def _share(self) -> None:
        """Shares the link anew among those that use it, and so says when each will be through."""
        flows = self._flows
        for leg, name in ((DOWN, "down"), (UP, "up")):
            moving = np.flatnonzero(~flows["ended"] & (flows["leg"] == leg))
            if len(moving) == 0:
                continue
            alone = np.maximum(flows[name][moving], 1)
            speed = speeds(8.0 * SECOND * self._bytes(flows[moving], leg) / alone, self._capacity[leg])
            left = flows["left"][moving]
            wait = np.where(left > 0, np.maximum(np.rint(left / speed), 1), 0)
            flows["speed"][moving] = speed
            flows["ends"][moving] = self._since + np.minimum(wait, FAR - self._since).astype(np.int64)


def speeds(caps: npt.NDArray[np.float64], capacity: float) -> npt.NDArray[np.float64]:
    """The max-min fair rate of each transfer over its own cap, f64[K] in (0, 1].

    Args:
        caps: f64[K], what each can take, in bits a second.
        capacity: What they share, in the same unit.

    """
    rising = np.sort(caps)
    before = np.concatenate([[0.0], np.cumsum(rising)[:-1]])
    level = (capacity - before) / np.arange(len(caps), 0, -1)  # if all that are lower had their cap
    limited = rising > level
    if not limited.any():
        return np.ones(len(caps))
    return np.asarray(np.minimum(level[int(np.argmax(limited))] / np.maximum(caps, 1e-300), 1.0), np.float64)


def save_flows(flows: Flows) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Flows as JSON data and named columns; `load_flows` is the inverse, to the bit."""
    columns = {name: flows.table[name].copy() for name in FLOW.names or ()}
    return {"since": flows.since}, columns


def load_flows(control: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> Flows:
    """The flows that `save_flows` took apart."""
    return Flows(frozen(rows(FLOW, len(columns["ticket"]), **columns)), int(control["since"]))


def _told(flows: Table) -> Table:
    """The EVENT rows of flows that are over, in key order."""
    table = rows(EVENT, len(flows), **{name: flows[name] for name in EVENT.names or ()})
    return taken(table, np.lexsort((table["client"], table["kind"], table["now"])))


def _bits(kbps: float | None) -> float:
    """Bits a second."""
    return float("inf") if kbps is None else 1000.0 * kbps
