"""What tasks cost: the bytes and device seconds of those that counted, and of those that did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from muster.core.record import Span
from muster.core.tables import ANSWER_BYTES, Ids, Purpose, Reason, Table, rows, to_secs

SPENT = np.dtype(
    [("down_bytes", "i8"), ("up_bytes", "i8"), ("down", "i8"), ("compute", "i8"), ("device", "i8")]
)
"""One row a task: bytes that travelled; ns spent loading the model, computing, and in all."""


class Timed(Protocol):
    """What a world says of its tasks' time."""

    @property
    def down_bytes(self) -> int:
        """Bytes of one task's download."""
        ...

    @property
    def up_bytes(self) -> int:
        """Bytes of one update's upload."""
        ...

    def timing(self, tasks: Table) -> Table:
        """Columns `down`, `compute`, `up` in ns for TASK rows."""
        ...

    def losses(self, tasks: Table, timing: Table) -> tuple[Ids, Table]:
        """i64[K] ns after which each task is lost unless it has reported before, FAR: never; and Reason."""
        ...

    def reports(self, tasks: Table, timing: Table) -> Table:
        """EVENT rows for TASK rows, in their order: what each that is not lost reports."""
        ...


def spent_alone(world: Timed, tasks: Table, until: int | Ids | None) -> Table:
    """SPENT rows of TASK rows whose links are their own.

    Args:
        world: Says how long they take.
        tasks: TASK rows.
        until: Up to which instant (ns), one for all or one each; None: to the end of each.

    """
    timing = world.timing(tasks)
    down, compute, up = (timing[name] for name in ("down", "compute", "up"))
    total = down + compute + up
    passed = total if until is None else np.minimum(np.asarray(until) - tasks["sent_at"], total)
    return rows(
        SPENT,
        len(tasks),
        down_bytes=_travelled(passed, down, world.down_bytes),
        up_bytes=_travelled(passed - down - compute, up, sent_bytes(tasks, world.up_bytes)),
        down=np.minimum(passed, down),
        compute=np.clip(passed - down, 0, compute),
        device=passed,
    )


def sent_bytes(tasks: Table, update_bytes: int) -> Ids:
    """i64[K] bytes that each of TASK rows sends: an update, or what it has measured."""
    return np.where(tasks["work"] == Purpose.MEASURE, ANSWER_BYTES, update_bytes)


def _travelled(passed: Ids, leg: Ids, num_bytes: int | Ids) -> Ids:
    """Bytes that have travelled when `passed` ns of legs that take `leg` ns are over."""
    share = np.where(leg > 0, np.clip(passed / np.maximum(leg, 1), 0.0, 1.0), passed >= 0)
    return np.asarray(np.rint(share * num_bytes), np.int64)


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
                outcome=_word(why) if why is not None else USED[int(tasks[row]["work"])],
            )
        )
    return told


USED = {int(Purpose.TRAIN): "accepted", int(Purpose.MEASURE): "measured"}
"""What became of a task that counted."""


def _word(reason: int) -> str:
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
        wasted = {_word(why): self.wasted[why] for why in sorted(self.wasted)}
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
