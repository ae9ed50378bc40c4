"""What tasks cost: the bytes and device seconds of those that counted, and of those that did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from muster.core.record import Span
from muster.core.tables import Ids, Reason, Table, rows, to_secs

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
        """Bytes of one task's upload."""
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
        up_bytes=_travelled(passed - down - compute, up, world.up_bytes),
        down=np.minimum(passed, down),
        compute=np.clip(passed - down, 0, compute),
        device=passed,
    )


def _travelled(passed: Ids, leg: Ids, num_bytes: int) -> Ids:
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
                outcome="accepted" if why is None else _word(why),
            )
        )
    return told


def _word(reason: int) -> str:
    return Reason(reason).name.lower()


@dataclass
class Ledger:
    """What the version that is being made has cost so far."""

    num_sent: int = 0
    num_lost: int = 0
    num_late: int = 0
    num_discarded: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    device_ns_used: int = 0
    device_ns_wasted: dict[int, int] = field(default_factory=dict)
    """By Reason."""

    def charge(self, spent: Table, reason: int | Ids | None) -> None:
        """Adds SPENT rows; `reason` (Reason) is why they do not count, one for all or one each, or None."""
        self.down_bytes += int(spent["down_bytes"].sum())
        self.up_bytes += int(spent["up_bytes"].sum())
        if reason is None:
            self.device_ns_used += sum(spent["device"].tolist())  # a large round overflows 63 bits
            return
        of = np.broadcast_to(np.asarray(reason), len(spent))
        for why in np.unique(of).tolist():
            if wasted := sum(spent["device"][of == why].tolist()):
                self.device_ns_wasted[why] = self.device_ns_wasted.get(why, 0) + wasted

    def columns(self) -> dict[str, Any]:
        """The fields of a Record that are costs."""
        costs = dict(vars(self))
        used, wasted = costs.pop("device_ns_used"), costs.pop("device_ns_wasted")
        return {
            **costs,
            "device_secs_used": to_secs(used),
            "device_secs_wasted": to_secs(sum(wasted.values())),
            "wasted_by_reason": {_word(why): to_secs(wasted[why]) for why in sorted(wasted)},
        }
