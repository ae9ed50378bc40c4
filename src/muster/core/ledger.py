"""What tasks have cost while a version was made: the same book for simulated and for real clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .record import Span
from .tables import Ids, Purpose, Reason, Table, to_secs

SPENT = np.dtype(
    [("down_bytes", "i8"), ("up_bytes", "i8"), ("down", "i8"), ("compute", "i8"), ("device", "i8")]
)
"""One row a task: bytes that travelled; ns spent loading the model, computing, and in all."""


def word(reason: int) -> str:
    """A Reason as records have it."""
    return Reason(reason).name.lower()


@dataclass(frozen=True)
class Power:
    """What a device draws while it works for us, in watts."""

    compute: float
    link: float


@dataclass
class Cost:
    """What some tasks have taken."""

    device_ns: int = 0
    compute_ns: int = 0
    num_bytes: int = 0
    """Both ways."""

    def add(self, spent: Table) -> None:
        """Adds SPENT rows."""
        self.device_ns += sum(spent["device"].tolist())  # of a large round they overflow 63 bits
        self.compute_ns += sum(spent["compute"].tolist())
        self.num_bytes += int(spent["down_bytes"].sum() + spent["up_bytes"].sum())

    def joules(self, power: Power) -> float:
        """Energy: computing, and the rest of the time on the link."""
        rest = self.device_ns - self.compute_ns
        return power.compute * to_secs(self.compute_ns) + power.link * to_secs(rest)


@dataclass
class Ledger:
    """What the version that is being made has cost so far."""

    num_sent: int = 0
    num_lost: int = 0
    num_late: int = 0
    num_discarded: int = 0
    num_measured: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    used: Cost = field(default_factory=Cost)
    wasted: dict[int, Cost] = field(default_factory=dict)
    """By Reason."""

    def charge(self, spent: Table, reason: int | Ids | None) -> None:
        """Adds SPENT rows; `reason` (Reason) is why they do not count, one for all or one each, or None."""
        self.down_bytes += int(spent["down_bytes"].sum())
        self.up_bytes += int(spent["up_bytes"].sum())
        if reason is None:
            self.used.add(spent)
            return
        of = np.broadcast_to(np.asarray(reason, np.int64), len(spent))
        for why in np.flatnonzero(np.bincount(of)).tolist():
            rows_of = spent[of == why]
            if rows_of["device"].any():
                self.wasted.setdefault(why, Cost()).add(rows_of)

    def columns(self, power: Power | None) -> dict[str, Any]:
        """The fields of a Record that are costs."""
        costs = dict(vars(self))
        del costs["used"], costs["wasted"]
        wasted = {word(why): self.wasted[why] for why in sorted(self.wasted)}
        if power is not None:
            costs["joules_used"] = self.used.joules(power)
            costs["joules_wasted_by_reason"] = {why: cost.joules(power) for why, cost in wasted.items()}
        return {
            **costs,
            "device_secs_used": to_secs(self.used.device_ns),
            "device_secs_wasted": to_secs(sum(cost.device_ns for cost in wasted.values())),
            "wasted_by_reason": {why: to_secs(cost.device_ns) for why, cost in wasted.items()},
            "wasted_bytes_by_reason": {why: cost.num_bytes for why, cost in wasted.items()},
        }


USED = {int(Purpose.TRAIN): "accepted", int(Purpose.MEASURE): "measured"}
"""What became of a task that counted."""


def spans(tasks: Table, spent: Table, reason: int | Ids | None, clients: Ids) -> list[Span]:
    """Those of the TASK rows that are of `clients` (ascending) as spans, from their SPENT rows."""
    at = np.searchsorted(clients, tasks["client"])
    shown = np.append(clients, -1)[at] == tasks["client"]
    told = []
    for row in np.flatnonzero(shown).tolist():
        why = None if reason is None else np.broadcast_to(np.asarray(reason), len(tasks))[row]
        down, compute, whole = (int(spent[row][name]) for name in ("down", "compute", "device"))
        told.append(
            Span(
                client=int(tasks[row]["client"]),
                sent_secs=to_secs(int(tasks[row]["sent_at"])),
                down_secs=to_secs(down),
                compute_secs=to_secs(compute),
                up_secs=to_secs(whole - down - compute),
                outcome=word(why) if why is not None else USED[int(tasks[row]["work"])],
            )
        )
    return told
