"""What tasks cost on the virtual clock: bytes, and device time up to their ends or an instant before."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from muster.core.ledger import SPENT
from muster.core.tables import ANSWER_BYTES, Ids, Purpose, Table, rows


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
