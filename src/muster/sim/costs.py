"""What tasks cost on the virtual clock: bytes, and device time up to their ends or an instant before."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from muster.core.ledger import SPENT, word
from muster.core.record import Span
from muster.core.tables import ANSWER_BYTES, Ids, Purpose, Table, rows, to_secs


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
                outcome=word(why) if why is not None else USED[int(tasks[row]["work"])],
            )
        )
    return told


USED = {int(Purpose.TRAIN): "accepted", int(Purpose.MEASURE): "measured"}
"""What became of a task that counted."""
